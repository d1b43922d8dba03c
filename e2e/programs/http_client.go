package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
)

// httpClient gets one URL many times at once over HTTP/2 with prior knowledge,
// on one connection, and prints what all answers have in common.
func httpClient(args []string) error {
	flags := flag.NewFlagSet("http-client", flag.ExitOnError)
	target := flags.String("target", "", "address of the server, or of what stands before it")
	path := flags.String("path", "/", "what to get")
	count := flags.Int("n", 100, "how often")
	_ = flags.Parse(args)
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: &protocols, DisableCompression: true}
	client := &http.Client{Transport: transport, Timeout: stepDeadline}

	var connections atomic.Int32
	trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		if !info.Reused {
			connections.Add(1)
		}
	}}
	ctx := httptrace.WithClientTrace(context.Background(), trace)
	get := func() (string, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+*target+*path, nil)
		if err != nil {
			return "", err
		}
		request.Host = "app.test"
		response, err := client.Do(request)
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		return fmt.Sprintf("%s %s, %s", response.Proto, response.Status, digest(body)), err
	}
	// The first alone: it opens the connection for all others.
	want, err := get()
	if err != nil {
		return err
	}
	var all sync.WaitGroup
	failed := make(chan error, *count)
	for range *count {
		all.Go(func() {
			if have, err := get(); err != nil || have != want {
				failed <- fmt.Errorf("%q instead of %q: %w", have, want, err)
			}
		})
	}
	all.Wait()
	close(failed)
	for err := range failed {
		return err
	}
	say("%d times %s", *count, want)
	say("%d connections", connections.Load())
	return nil
}
