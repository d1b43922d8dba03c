// Programs that end-to-end tests run beside sidecars: servers and clients of
// gRPC, WebSocket and HTTP. Every client prints a transcript that is the same
// each time it is run against the same server, so that a run through the mesh
// can be held against a direct one to the byte.
package main

import (
	"fmt"
	"os"
	"sort"
)

var commands = map[string]func(args []string) error{
	"grpc-server": grpcServer,
	"grpc-client": grpcClient,
	"ws-server":   wsServer,
	"ws-client":   wsClient,
	"http-echo":   httpEcho,
	"http-client": httpClient,
	"get":         httpGet,
	"lookup":      lookup,
	"tcp-echo":    tcpEcho,
	"shop":        shop,
	"load":        load,
	"webhook":     webhook,
	"certify":     certify,
	"tls-probe":   tlsProbe,
	"impostor":    impostor,
}

func main() {
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		names := make([]string, 0, len(commands))
		for name := range commands {
			names = append(names, name)
		}
		sort.Strings(names)
		fmt.Fprintf(os.Stderr, "usage: programs COMMAND [flags]; commands: %v\n", names)
		os.Exit(2)
	}
	if err := commands[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}
