package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"sort"
	"strings"
	"sync"
	"time"
)

// Different errors that a report tells.
const maxErrors = 20

// report is what load has seen.
type report struct {
	Sent     int            `json:"sent"`
	Good     int            `json:"good"`
	Failed   int            `json:"failed"`
	P50      float64        `json:"p50_ms"`
	P99      float64        `json:"p99_ms"`
	Max      float64        `json:"max_ms"`
	Backends map[string]int `json:"backends"`
	Errors   map[string]int `json:"errors"`
}

// load sends requests at a steady rate, whether earlier ones were answered or
// not, until it is told to end or the time is over, and prints a report as one
// line of JSON. An answer other than 2xx, or none, has failed.
func load(args []string) error {
	flags := flag.NewFlagSet("load", flag.ExitOnError)
	url := flags.String("url", "", "what to get")
	rate := flags.Int("rate", 200, "requests a second")
	duration := flags.Duration("for", time.Minute, "how long")
	fresh := flags.Bool("fresh", false, "a connection for each request")
	http2 := flags.Bool("http2", false, "HTTP/2 with prior knowledge")
	_ = flags.Parse(args)
	transport := &http.Transport{DisableKeepAlives: *fresh, MaxIdleConnsPerHost: 256, DisableCompression: true}
	if *http2 {
		var protocols http.Protocols
		protocols.SetUnencryptedHTTP2(true)
		transport.Protocols = &protocols
	}
	client := &http.Client{Transport: transport, Timeout: 15 * time.Second}

	var lock sync.Mutex
	var took []time.Duration
	seen := report{Backends: map[string]int{}, Errors: map[string]int{}}
	one := func() {
		begun := time.Now()
		backend, err := getOnce(client, *url)
		lock.Lock()
		defer lock.Unlock()
		took = append(took, time.Since(begun))
		if err == nil {
			seen.Good++
			seen.Backends[backend]++
			return
		}
		seen.Failed++
		if text := err.Error(); seen.Errors[text] > 0 || len(seen.Errors) < maxErrors {
			seen.Errors[text]++
			fmt.Fprintf(os.Stderr, "%s %s\n", time.Now().UTC().Format(time.RFC3339Nano), text)
		}
	}

	ctx, cancel := terminated()
	defer cancel()
	over := time.After(*duration)
	ticks := time.NewTicker(time.Second / time.Duration(*rate))
	defer ticks.Stop()
	var all sync.WaitGroup
	say("sending")
sending:
	for {
		select {
		case <-ctx.Done():
			break sending
		case <-over:
			break sending
		case <-ticks.C:
			seen.Sent++
			all.Go(one)
		}
	}
	all.Wait()
	sort.Slice(took, func(i, j int) bool { return took[i] < took[j] })
	at := func(share float64) float64 {
		if len(took) == 0 {
			return 0
		}
		return float64(took[int(share*float64(len(took)-1))].Microseconds()) / 1000
	}
	seen.P50, seen.P99, seen.Max = at(0.5), at(0.99), at(1)
	return json.NewEncoder(os.Stdout).Encode(seen)
}

// getOnce gets a URL and says who answered.
func getOnce(client *http.Client, url string) (string, error) {
	response, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return "", err
	}
	if response.StatusCode/100 != 2 {
		return "", fmt.Errorf("%s (%s) %s", response.Status, response.Header.Get("mesh-error"), firstLine(body))
	}
	if backend := response.Header.Get("x-backend"); backend != "" {
		return backend, nil
	}
	return firstLine(body), nil
}

func firstLine(body []byte) string {
	line, _, _ := strings.Cut(string(body), "\n")
	return line[:min(len(line), 200)]
}
