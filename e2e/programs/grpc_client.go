package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"sort"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

type client struct {
	stub grpc_testing.TestServiceClient
	run  string
}

// grpcClient makes calls of all four types, ends them in all ways, and prints
// what it and the server have seen.
func grpcClient(args []string) error {
	flags := flag.NewFlagSet("grpc-client", flag.ExitOnError)
	target := flags.String("target", "", "address of the server, or of what stands before it")
	_ = flags.Parse(args)
	connection, err := grpc.NewClient("passthrough:///"+*target,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority("grpc.test"),
		grpc.WithDisableRetry(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	if err != nil {
		return err
	}
	defer connection.Close()
	// Names of calls are not printed: they differ from run to run.
	c := &client{stub: grpc_testing.NewTestServiceClient(connection), run: fmt.Sprint(time.Now().UnixNano())}
	steps := []struct {
		title string
		play  func(context.Context) error
	}{
		{"unary", c.unary},
		{"unary, large", c.large},
		{"unary, compressed", c.compressed},
		{"metadata", c.metadata},
		{"server streaming", c.serverStreaming},
		{"client streaming", c.clientStreaming},
		{"bidirectional streaming", c.bidi},
		{"many streams at once", c.many},
		{"errors without a body", c.errors},
		{"an error after messages", c.lateError},
		{"not implemented", c.unimplemented},
		{"deadline", c.deadline},
		{"deadline of a stream", c.streamDeadline},
		{"cancelled", c.cancelled},
		{"stream cancelled", c.streamCancelled},
	}
	for _, s := range steps {
		step(s.title)
		ctx, cancel := context.WithTimeout(context.Background(), stepDeadline)
		err := s.play(ctx)
		cancel()
		if err != nil {
			return fmt.Errorf("%s: %w", s.title, err)
		}
	}
	step("end")
	return nil
}

func payload(size int, seed uint32) *grpc_testing.Payload {
	return &grpc_testing.Payload{Body: pattern(size, seed)}
}

// describe prints how a call ended, with the test's own metadata.
func describe(err error, header, trailer metadata.MD) {
	s := status.Convert(err)
	say("status %s %q details %v", s.Code(), s.Message(), s.Details())
	for _, md := range []struct {
		name string
		md   metadata.MD
	}{{"header", header}, {"trailer", trailer}} {
		var lines []string
		for key, values := range md.md {
			lines = append(lines, fmt.Sprintf("%s=%q", key, values))
		}
		sort.Strings(lines)
		say("%s %s", md.name, strings.Join(lines, " "))
	}
}

func (c *client) unary(ctx context.Context) error {
	var header, trailer metadata.MD
	_, err := c.stub.EmptyCall(ctx, &grpc_testing.Empty{}, grpc.Header(&header), grpc.Trailer(&trailer))
	describe(err, header, trailer)
	for _, size := range []int{0, 1, 1000, 70_000} {
		// Without a deadline: what the server sees of one differs each time.
		in := &grpc_testing.SimpleRequest{Payload: payload(size, 3), ResponseSize: int32(size)}
		answer, err := c.stub.UnaryCall(context.WithoutCancel(ctx), in)
		say("%s | %s | %v", answer.GetUsername(), digest(answer.GetPayload().GetBody()), err)
	}
	return err
}

func (c *client) large(ctx context.Context) error {
	const size = 12 << 20
	in := &grpc_testing.SimpleRequest{Payload: payload(size, 5), ResponseSize: size}
	answer, err := c.stub.UnaryCall(context.WithoutCancel(ctx), in)
	say("%s | %s", answer.GetUsername(), digest(answer.GetPayload().GetBody()))
	return err
}

func (c *client) compressed(ctx context.Context) error {
	in := &grpc_testing.SimpleRequest{Payload: &grpc_testing.Payload{Body: make([]byte, 1<<20)}, ResponseSize: 100}
	answer, err := c.stub.UnaryCall(context.WithoutCancel(ctx), in, grpc.UseCompressor(gzip.Name))
	say("%s | %s", answer.GetUsername(), digest(answer.GetPayload().GetBody()))
	return err
}

func (c *client) metadata(ctx context.Context) error {
	ctx = metadata.AppendToOutgoingContext(ctx,
		metaEcho, "one", metaEcho, "two, with a comma", metaEchoBin, string([]byte{0, 1, 254, 255}),
		"x-long", strings.Repeat("v", 4000))
	var header, trailer metadata.MD
	_, err := c.stub.UnaryCall(ctx, &grpc_testing.SimpleRequest{}, grpc.Header(&header), grpc.Trailer(&trailer))
	describe(err, header, trailer)
	return err
}

func sizes(list ...int32) []*grpc_testing.ResponseParameters {
	out := make([]*grpc_testing.ResponseParameters, len(list))
	for i, size := range list {
		out[i] = &grpc_testing.ResponseParameters{Size: size}
	}
	return out
}

func (c *client) serverStreaming(ctx context.Context) error {
	in := &grpc_testing.StreamingOutputCallRequest{ResponseParameters: sizes(31415, 9, 0, 2653, 1<<20, 58979)}
	out, err := c.stub.StreamingOutputCall(ctx, in)
	if err != nil {
		return err
	}
	for {
		message, err := out.Recv()
		if errors.Is(err, io.EOF) {
			header, _ := out.Header()
			describe(nil, header, out.Trailer())
			return nil
		}
		if err != nil {
			return err
		}
		say("%s", digest(message.GetPayload().GetBody()))
	}
}

func (c *client) clientStreaming(ctx context.Context) error {
	in, err := c.stub.StreamingInputCall(ctx)
	if err != nil {
		return err
	}
	for number, size := range []int{27182, 8, 0, 1828, 1 << 20, 45904} {
		if err := in.Send(&grpc_testing.StreamingInputCallRequest{Payload: payload(size, uint32(number))}); err != nil {
			return err
		}
	}
	answer, err := in.CloseAndRecv()
	say("together %d", answer.GetAggregatedPayloadSize())
	describe(err, nil, in.Trailer())
	return err
}

// bidi waits for each answer before it asks again: a hop that holds messages
// back until the stream ends would stop it for ever.
func (c *client) bidi(ctx context.Context) error {
	both, err := c.stub.FullDuplexCall(ctx)
	if err != nil {
		return err
	}
	for round := range 50 {
		if err := both.Send(&grpc_testing.StreamingOutputCallRequest{ResponseParameters: sizes(int32(round*100), 1)}); err != nil {
			return err
		}
		for range 2 {
			message, err := both.Recv()
			if err != nil {
				return err
			}
			if round%10 == 0 {
				say("round %d: %s", round, digest(message.GetPayload().GetBody()))
			}
		}
	}
	if err := both.CloseSend(); err != nil {
		return err
	}
	_, err = both.Recv()
	say("end %v", err)
	header, _ := both.Header()
	describe(nil, header, both.Trailer())
	return nil
}

func (c *client) many(ctx context.Context) error {
	const calls = 200
	var all sync.WaitGroup
	failed := make(chan error, calls)
	for number := range calls {
		all.Go(func() {
			in := &grpc_testing.SimpleRequest{Payload: payload(number, uint32(number)), ResponseSize: int32(number * 10)}
			answer, err := c.stub.UnaryCall(ctx, in)
			if err == nil && len(answer.GetPayload().GetBody()) != number*10 {
				err = fmt.Errorf("call %d got %d bytes", number, len(answer.GetPayload().GetBody()))
			}
			if err != nil {
				failed <- err
			}
		})
	}
	all.Wait()
	close(failed)
	for err := range failed {
		return err
	}
	say("%d calls", calls)
	return nil
}

func (c *client) errors(ctx context.Context) error {
	ctx = metadata.AppendToOutgoingContext(ctx, metaEcho, "kept")
	messages := []string{"plain", "", "per cent % and\nnew line\tand tab", "ünïcödé ✓", strings.Repeat("long ", 100)}
	for code := int32(1); code <= 16; code++ {
		want := &grpc_testing.EchoStatus{Code: code, Message: messages[int(code)%len(messages)]}
		var header, trailer metadata.MD
		_, err := c.stub.UnaryCall(ctx, &grpc_testing.SimpleRequest{ResponseStatus: want}, grpc.Header(&header), grpc.Trailer(&trailer))
		describe(err, header, trailer)
	}
	return nil
}

func (c *client) lateError(ctx context.Context) error {
	in := &grpc_testing.StreamingOutputCallRequest{
		ResponseParameters: sizes(100, 200),
		ResponseStatus:     &grpc_testing.EchoStatus{Code: 9, Message: "after two"},
	}
	out, err := c.stub.StreamingOutputCall(ctx, in)
	if err != nil {
		return err
	}
	for {
		message, err := out.Recv()
		if err != nil {
			describe(err, nil, out.Trailer())
			return nil
		}
		say("%s", digest(message.GetPayload().GetBody()))
	}
}

func (c *client) unimplemented(ctx context.Context) error {
	var header, trailer metadata.MD
	_, err := c.stub.UnimplementedCall(ctx, &grpc_testing.Empty{}, grpc.Header(&header), grpc.Trailer(&trailer))
	describe(err, header, trailer)
	return nil
}

// observe prints what the server saw of the end of a call.
func (c *client) observe(ctx context.Context, name string) error {
	answer, err := c.stub.UnaryCall(metadata.AppendToOutgoingContext(ctx, metaObserve, name), &grpc_testing.SimpleRequest{})
	say("the server saw: %s", answer.GetUsername())
	return err
}

func (c *client) deadline(ctx context.Context) error {
	name := c.run + "-deadline"
	short, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := c.stub.UnaryCall(metadata.AppendToOutgoingContext(short, metaCall, name, metaHang, "1"), &grpc_testing.SimpleRequest{})
	say("status %s, within 2 s: %t", status.Code(err), time.Since(start) < 2*time.Second)
	return c.observe(ctx, name)
}

func (c *client) streamDeadline(ctx context.Context) error {
	short, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	late := sizes(10, 20)
	late[1].IntervalUs = 15_000_000
	out, err := c.stub.StreamingOutputCall(short, &grpc_testing.StreamingOutputCallRequest{ResponseParameters: late})
	if err != nil {
		return err
	}
	message, err := out.Recv()
	say("%s %v", digest(message.GetPayload().GetBody()), err)
	start := time.Now()
	_, err = out.Recv()
	say("status %s, within 2 s: %t", status.Code(err), time.Since(start) < 2*time.Second)
	return nil
}

func (c *client) cancelled(ctx context.Context) error {
	name := c.run + "-cancelled"
	call, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	time.AfterFunc(300*time.Millisecond, cancel)
	_, err := c.stub.UnaryCall(metadata.AppendToOutgoingContext(call, metaCall, name, metaHang, "1"), &grpc_testing.SimpleRequest{})
	say("status %s", status.Code(err))
	return c.observe(ctx, name)
}

func (c *client) streamCancelled(ctx context.Context) error {
	name := c.run + "-stream"
	call, cancel := context.WithCancel(ctx)
	defer cancel()
	both, err := c.stub.FullDuplexCall(metadata.AppendToOutgoingContext(call, metaCall, name))
	if err != nil {
		return err
	}
	if err := both.Send(&grpc_testing.StreamingOutputCallRequest{ResponseParameters: sizes(5)}); err != nil {
		return err
	}
	if _, err := both.Recv(); err != nil {
		return err
	}
	cancel()
	_, err = both.Recv()
	say("status %s", status.Code(err))
	return c.observe(ctx, name)
}
