// Command jaeger is the part of Jaeger that the tests need, composed of Jaeger's own packages: traces come in by OTLP over
// gRPC, are kept in memory, and are asked for by its query API, version 3. The whole of Jaeger's all-in-one takes six times
// as many packages, every storage there is among them. Pages are not part of Jaeger's module.
//
// The module's name is what lets it import them: most are internal to github.com/jaegertracing/jaeger.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/gorilla/mux"
	"github.com/jaegertracing/jaeger/cmd/query/app/apiv3"
	"github.com/jaegertracing/jaeger/cmd/query/app/querysvc/v2/querysvc"
	memoryv1 "github.com/jaegertracing/jaeger/internal/storage/v1/memory"
	"github.com/jaegertracing/jaeger/internal/storage/v2/memory"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// collector writes what it receives into the storage.
type collector struct {
	ptraceotlp.UnimplementedGRPCServer
	store *memory.Store
}

func (c *collector) Export(ctx context.Context, request ptraceotlp.ExportRequest) (ptraceotlp.ExportResponse, error) {
	return ptraceotlp.NewExportResponse(), c.store.WriteTraces(ctx, request.Traces())
}

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

func run() error {
	most := 20_000
	if text := os.Getenv("MEMORY_MAX_TRACES"); text != "" {
		number, err := strconv.Atoi(text)
		if err != nil || number < 1 {
			return fmt.Errorf("MEMORY_MAX_TRACES: %q is not a number of traces", text)
		}
		most = number
	}
	store, err := memory.NewStore(memoryv1.Configuration{MaxTraces: most})
	if err != nil {
		return err
	}

	otlp, err := net.Listen("tcp", ":4317")
	if err != nil {
		return err
	}
	receiver := grpc.NewServer()
	ptraceotlp.RegisterGRPCServer(receiver, &collector{store: store})

	router := mux.NewRouter()
	gateway := apiv3.HTTPGateway{
		QueryService: querysvc.NewQueryService(store, store, querysvc.QueryServiceOptions{}),
		Logger:       zap.NewNop(),
		Tracer:       noop.NewTracerProvider(),
	}
	gateway.RegisterRoutes(router)
	router.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintln(w, "Jaeger without pages; the query API is at /api/v3")
	})
	query := &http.Server{Addr: ":16686", Handler: router, ReadHeaderTimeout: 10 * time.Second}

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	ended := make(chan error, 2)
	go func() { ended <- receiver.Serve(otlp) }()
	go func() { ended <- query.ListenAndServe() }()
	select {
	case err = <-ended:
	case <-ctx.Done():
	}
	receiver.Stop()
	return errors.Join(err, query.Close())
}
