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
	"google.golang.org/grpc/codes"
	// Takes compressed messages.
	_ "google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	// Names a call, so that what the server saw of its end can be asked for.
	metaCall = "x-call"
	// Asks what the server saw of the end of the call of this name.
	metaObserve = "x-observe"
	// Sent back as header and as trailer.
	metaEcho    = "x-echo"
	metaEchoBin = "x-echo-bin"
	// Keeps a unary call waiting until it is cancelled.
	metaHang = "x-hang"
	// Largest message, in bytes.
	maxMessage = 32 << 20
	// Calls whose end is remembered.
	maxObserved = 1024
)

// testServer is gRPC's own interoperability service, with an eye on how calls
// end.
type testServer struct {
	grpc_testing.UnimplementedTestServiceServer

	lock  sync.Mutex
	calls map[string]chan string
}

func grpcServer(args []string) error {
	flags := flag.NewFlagSet("grpc-server", flag.ExitOnError)
	address := flags.String("listen", "127.0.0.1:0", "address to listen on")
	_ = flags.Parse(args)
	listener, err := listen(*address)
	if err != nil {
		return err
	}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage))
	grpc_testing.RegisterTestServiceServer(server, &testServer{calls: map[string]chan string{}})
	grpc_health_v1.RegisterHealthServer(server, health.NewServer())
	ctx, cancel := terminated()
	defer cancel()
	go func() {
		<-ctx.Done()
		server.GracefulStop()
	}()
	return server.Serve(listener)
}

// observed is where the end of a call is told. It is made by whoever comes
// first, the call or the question.
func (s *testServer) observed(name string) chan string {
	s.lock.Lock()
	defer s.lock.Unlock()
	if s.calls[name] == nil {
		if len(s.calls) >= maxObserved {
			clear(s.calls)
		}
		s.calls[name] = make(chan string, 1)
	}
	return s.calls[name]
}

// first gives a metadata value of a call.
func first(ctx context.Context, key string) string {
	if values := metadata.ValueFromIncomingContext(ctx, key); len(values) > 0 {
		return values[0]
	}
	return ""
}

// begin sends back the metadata that the caller wants to see again.
func begin(ctx context.Context, setHeader, setTrailer func(metadata.MD)) {
	back := metadata.MD{}
	for _, key := range []string{metaEcho, metaEchoBin} {
		if values := metadata.ValueFromIncomingContext(ctx, key); len(values) > 0 {
			back[key] = values
		}
	}
	setHeader(back)
	after := back.Copy()
	after.Set("x-trailer", "yes")
	setTrailer(after)
}

func (s *testServer) unary(ctx context.Context) {
	begin(ctx, func(md metadata.MD) { _ = grpc.SetHeader(ctx, md) }, func(md metadata.MD) { _ = grpc.SetTrailer(ctx, md) })
}

// hang waits for the end of a call that is given up by its caller, and tells
// what that end looked like.
func (s *testServer) hang(ctx context.Context) error {
	deadline := "no deadline"
	if at, ok := ctx.Deadline(); ok {
		// The caller's deadline, which every hop may only shorten.
		deadline = fmt.Sprintf("a deadline within 10 s: %t", time.Until(at) <= 10*time.Second)
	}
	end, err := "it was not given up", status.Error(codes.Internal, "nobody gave it up")
	select {
	case <-ctx.Done():
		// A deadline reaches the server by its own timer or as the
		// caller's reset, whichever is first: both end the call.
		end, err = "it was cancelled", status.FromContextError(ctx.Err()).Err()
	case <-time.After(stepDeadline):
	}
	s.observed(first(ctx, metaCall)) <- fmt.Sprintf("%s; %s", deadline, end)
	return err
}

func (s *testServer) EmptyCall(ctx context.Context, _ *grpc_testing.Empty) (*grpc_testing.Empty, error) {
	s.unary(ctx)
	return &grpc_testing.Empty{}, nil
}

func (s *testServer) UnaryCall(ctx context.Context, in *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
	s.unary(ctx)
	if name := first(ctx, metaObserve); name != "" {
		select {
		case end := <-s.observed(name):
			return &grpc_testing.SimpleResponse{Username: end}, nil
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
	if first(ctx, metaHang) != "" {
		return nil, s.hang(ctx)
	}
	if want := in.GetResponseStatus(); want != nil && want.GetCode() != 0 {
		return nil, failure(want)
	}
	// What the server has seen of the call, to be compared by the caller.
	seen := fmt.Sprintf("got %s; %s", digest(in.GetPayload().GetBody()), visible(ctx))
	body := pattern(int(min(in.GetResponseSize(), maxMessage/2)), 7)
	return &grpc_testing.SimpleResponse{Username: seen, Payload: &grpc_testing.Payload{Body: body}}, nil
}

// failure is the error that the caller asks for, with a detail.
func failure(want *grpc_testing.EchoStatus) error {
	s := status.New(codes.Code(want.GetCode()), want.GetMessage())
	if detailed, err := s.WithDetails(&grpc_testing.SimpleResponse{Username: "a detail"}); err == nil {
		s = detailed
	}
	return s.Err()
}

// visible lists the metadata of a call as an application sees it, but for what
// the mesh says in its own name.
func visible(ctx context.Context) string {
	md, _ := metadata.FromIncomingContext(ctx)
	var lines []string
	for key, values := range md {
		if strings.HasPrefix(key, "mesh-") {
			continue
		}
		for _, value := range values {
			lines = append(lines, fmt.Sprintf("%s=%q", key, value))
		}
	}
	sort.Strings(lines)
	return strings.Join(lines, " ")
}

func (s *testServer) StreamingOutputCall(in *grpc_testing.StreamingOutputCallRequest, out grpc_testing.TestService_StreamingOutputCallServer) error {
	begin(out.Context(), func(md metadata.MD) { _ = out.SetHeader(md) }, out.SetTrailer)
	if err := s.answer(in, out.Context(), out.Send); err != nil {
		return err
	}
	if want := in.GetResponseStatus(); want != nil && want.GetCode() != 0 {
		return failure(want)
	}
	return nil
}

func (s *testServer) answer(in *grpc_testing.StreamingOutputCallRequest, ctx context.Context, send func(*grpc_testing.StreamingOutputCallResponse) error) error {
	for number, want := range in.GetResponseParameters() {
		select {
		case <-time.After(time.Duration(want.GetIntervalUs()) * time.Microsecond):
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
		body := pattern(int(min(want.GetSize(), maxMessage/2)), uint32(number))
		if err := send(&grpc_testing.StreamingOutputCallResponse{Payload: &grpc_testing.Payload{Body: body}}); err != nil {
			return err
		}
	}
	return nil
}

func (s *testServer) StreamingInputCall(in grpc_testing.TestService_StreamingInputCallServer) error {
	begin(in.Context(), func(md metadata.MD) { _ = in.SetHeader(md) }, in.SetTrailer)
	var size int32
	for {
		request, err := in.Recv()
		if errors.Is(err, io.EOF) {
			return in.SendAndClose(&grpc_testing.StreamingInputCallResponse{AggregatedPayloadSize: size})
		}
		if err != nil {
			return err
		}
		size += int32(len(request.GetPayload().GetBody()))
	}
}

func (s *testServer) FullDuplexCall(both grpc_testing.TestService_FullDuplexCallServer) error {
	ctx := both.Context()
	begin(ctx, func(md metadata.MD) { _ = both.SetHeader(md) }, both.SetTrailer)
	for {
		request, err := both.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			if name := first(ctx, metaCall); name != "" {
				s.observed(name) <- fmt.Sprintf("the stream ended with %s", status.Code(err))
			}
			return err
		}
		if err := s.answer(request, ctx, both.Send); err != nil {
			return err
		}
		if want := request.GetResponseStatus(); want != nil && want.GetCode() != 0 {
			return failure(want)
		}
	}
}
