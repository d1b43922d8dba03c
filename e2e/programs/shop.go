package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
)

// Header fields that a service passes on with the calls that a request makes,
// so that they belong to its trace. It is all an application does for a mesh.
var traceFields = []string{"traceparent", "tracestate", "b3", "x-request-id"}

// visit is what one service tells of a request: who it is, whom the mesh names
// as the caller, and what the services behind it told.
type visit struct {
	Service  string  `json:"service"`
	Protocol string  `json:"protocol"`
	Caller   string  `json:"caller"`
	Error    string  `json:"error,omitempty"`
	Next     []visit `json:"next,omitempty"`
}

// shop is one of four services, which call each other over four protocols:
//
//	web    HTTP/1.1; calls api over HTTP/2
//	api    HTTP/2; calls stock over gRPC, audit over HTTP/1.1 and plain TCP
//	stock  gRPC
//	audit  HTTP/1.1, and lines over TCP
func shop(args []string) error {
	flags := flag.NewFlagSet("shop", flag.ExitOnError)
	service := flags.String("service", "web", "web, api, stock or audit")
	address := flags.String("listen", ":8080", "address to listen on")
	lines := flags.String("lines", ":7000", "where audit takes lines")
	_ = flags.Parse(args)
	switch *service {
	case "web":
		return serveShop(*address, "web", func(ctx context.Context, fields http.Header) []visit {
			return []visit{callHTTP(ctx, "http://api/", true, fields)}
		})
	case "api":
		return serveShop(*address, "api", func(ctx context.Context, fields http.Header) []visit {
			return []visit{
				callGRPC(ctx, "stock:9090", fields),
				callHTTP(ctx, "http://audit/", false, fields),
				callLine("audit:7000"),
			}
		})
	case "stock":
		return serveStock(*address)
	case "audit":
		go func() {
			if err := serveLines(*lines); err != nil {
				say("lines: %v", err)
			}
		}()
		return serveShop(*address, "audit", nil)
	}
	return fmt.Errorf("there is no service %q", *service)
}

func serveShop(address, name string, next func(context.Context, http.Header) []visit) error {
	return serveHTTP(address, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), stepDeadline)
		defer cancel()
		told := visit{Service: name, Protocol: r.Proto, Caller: r.Header.Get("mesh-client-id")}
		if next != nil && r.URL.Path != "/healthz" {
			told.Next = next(ctx, r.Header)
		}
		w.Header().Set("content-type", "application/json")
		for _, one := range told.Next {
			if one.Error != "" {
				w.WriteHeader(http.StatusBadGateway)
				break
			}
		}
		_ = json.NewEncoder(w).Encode(told)
	}))
}

func callHTTP(ctx context.Context, url string, http2 bool, fields http.Header) visit {
	failed := func(err error) visit { return visit{Service: url, Error: err.Error()} }
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return failed(err)
	}
	for _, field := range traceFields {
		if value := fields.Get(field); value != "" {
			request.Header.Set(field, value)
		}
	}
	client := shopHTTP1
	if http2 {
		client = shopHTTP2
	}
	response, err := client.Do(request)
	if err != nil {
		return failed(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return failed(err)
	}
	var told visit
	if err := json.Unmarshal(body, &told); err != nil {
		refusal := fmt.Sprintf("%s: %s (%s, %s)", response.Status, strings.TrimSpace(string(body)),
			response.Header.Get("mesh-error"), response.Header.Get("mesh-policy"))
		return failed(errors.New(refusal))
	}
	if response.StatusCode != http.StatusOK && told.Error == "" {
		told.Error = response.Status
	}
	return told
}

var (
	shopHTTP1 = &http.Client{Transport: &http.Transport{}}
	shopHTTP2 = func() *http.Client {
		var protocols http.Protocols
		protocols.SetUnencryptedHTTP2(true)
		return &http.Client{Transport: &http.Transport{Protocols: &protocols}}
	}()
)

func callGRPC(ctx context.Context, target string, fields http.Header) visit {
	failed := func(err error) visit { return visit{Service: target, Error: err.Error()} }
	connection, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return failed(err)
	}
	defer connection.Close()
	for _, field := range traceFields {
		if value := fields.Get(field); value != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, field, value)
		}
	}
	answer, err := grpc_testing.NewTestServiceClient(connection).UnaryCall(ctx, &grpc_testing.SimpleRequest{})
	if err != nil {
		return failed(err)
	}
	return visit{Service: "stock", Protocol: "gRPC", Caller: answer.GetUsername()}
}

// stock answers every call with the caller's name.
type stock struct {
	grpc_testing.UnimplementedTestServiceServer
}

func (stock) UnaryCall(ctx context.Context, _ *grpc_testing.SimpleRequest) (*grpc_testing.SimpleResponse, error) {
	fields, _ := metadata.FromIncomingContext(ctx)
	return &grpc_testing.SimpleResponse{Username: strings.Join(fields.Get("mesh-client-id"), ",")}, nil
}

func serveStock(address string) error {
	listener, err := listen(address)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	grpc_testing.RegisterTestServiceServer(server, stock{})
	ctx, cancel := terminated()
	defer cancel()
	go func() {
		<-ctx.Done()
		server.GracefulStop()
	}()
	return server.Serve(listener)
}

// callLine sends a line and takes one back, over plain TCP.
func callLine(target string) visit {
	failed := func(err error) visit { return visit{Service: target, Error: err.Error()} }
	connection, err := net.DialTimeout("tcp", target, stepDeadline)
	if err != nil {
		return failed(err)
	}
	defer connection.Close()
	_ = connection.SetDeadline(time.Now().Add(stepDeadline))
	if _, err := fmt.Fprintln(connection, "an order that nobody may read"); err != nil {
		return failed(err)
	}
	line, err := bufio.NewReader(connection).ReadString('\n')
	if err != nil {
		return failed(err)
	}
	return visit{Service: strings.TrimSpace(line), Protocol: "TCP"}
}

func serveLines(address string) error {
	listener, err := listen(address)
	if err != nil {
		return err
	}
	for {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer connection.Close()
			_ = connection.SetDeadline(time.Now().Add(stepDeadline))
			if _, err := bufio.NewReader(connection).ReadString('\n'); err == nil {
				fmt.Fprintln(connection, "audit")
			}
		}()
	}
}
