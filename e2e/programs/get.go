package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// Largest part of an answer that get prints.
const maxPrinted = 64 << 10

// httpGet gets a URL one time after another, and prints a line for each answer: its status, who gave it, and its body with
// -body. It fails where one request fails, or is not answered as -want says.
func httpGet(args []string) error {
	flags := flag.NewFlagSet("get", flag.ExitOnError)
	url := flags.String("url", "", "what to get")
	method := flags.String("method", http.MethodGet, "how")
	host := flags.String("host", "", "the request's own name of the server")
	count := flags.Int("n", 1, "how often")
	pause := flags.Duration("pause", 0, "between two requests")
	deadline := flags.Duration("deadline", 10*time.Second, "for each request")
	want := flags.Int("want", 0, "the status that every answer must have; 0 for any")
	body := flags.Bool("body", false, "print the body")
	show := flags.String("show", "", "header field of each answer to print")
	fresh := flags.Bool("fresh", false, "a new connection for each request")
	insecure := flags.Bool("insecure", false, "take any certificate")
	http2 := flags.Bool("http2", false, "HTTP/2 with prior knowledge")
	var headers headerFlags
	flags.Var(&headers, "header", "NAME: VALUE")
	_ = flags.Parse(args)
	transport := &http.Transport{
		DisableKeepAlives:  *fresh,
		DisableCompression: true,
		DialContext:        (&net.Dialer{Timeout: *deadline}).DialContext,
		TLSClientConfig:    &tls.Config{InsecureSkipVerify: *insecure},
	}
	if *http2 {
		transport.Protocols = new(http.Protocols)
		transport.Protocols.SetUnencryptedHTTP2(true)
	}
	client := &http.Client{
		Transport:     transport,
		Timeout:       *deadline,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	failed := 0
	for round := range *count {
		if round > 0 {
			time.Sleep(*pause)
		}
		request, err := http.NewRequestWithContext(context.Background(), *method, *url, nil)
		if err != nil {
			return err
		}
		if *host != "" {
			request.Host = *host
		}
		for _, header := range headers {
			name, value, _ := strings.Cut(header, ":")
			request.Header.Add(strings.TrimSpace(name), strings.TrimSpace(value))
		}
		response, err := client.Do(request)
		if err != nil {
			say("error %v", err)
			failed++
			continue
		}
		text, err := io.ReadAll(io.LimitReader(response.Body, maxPrinted))
		response.Body.Close()
		say("%d %s", response.StatusCode, response.Header.Get("x-backend"))
		if *show != "" {
			say("%s: %s", *show, response.Header.Get(*show))
		}
		if *body {
			say("%s", strings.TrimRight(string(text), "\n"))
		}
		if err != nil || (*want != 0 && response.StatusCode != *want) {
			say("not as wanted: %v", err)
			failed++
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d requests failed", failed, *count)
	}
	return nil
}

type headerFlags []string

func (h *headerFlags) String() string { return strings.Join(*h, ", ") }

func (h *headerFlags) Set(value string) error {
	if !strings.Contains(value, ":") {
		return errors.New("a header is NAME: VALUE")
	}
	*h = append(*h, value)
	return nil
}
