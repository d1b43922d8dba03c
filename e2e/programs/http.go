package main

import (
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"net/http"
	"sort"
	"strconv"
	"strings"
	"time"
)

// Largest body that /bytes makes.
const maxBytes = 1 << 30

// httpEcho tells callers what it has seen of their request, and behaves as
// they ask:
//
//	/              the request: method, path, protocol, header fields, body
//	/status/NNN    answers NNN (204 and 304 without a body)
//	/delay/MS      answers after so many milliseconds
//	/bytes/N       a body of N bytes, with its length
//	/stream/N/MS   N lines, one every MS milliseconds, without a length
//	/trailers      a body and two trailers
//	/early         answers 403 before the body is read
//	/abort         sends half of a body and breaks the connection off
func httpEcho(args []string) error {
	flags := flag.NewFlagSet("http-echo", flag.ExitOnError)
	address := flags.String("listen", "127.0.0.1:0", "address to listen on")
	name := flags.String("name", "echo", "sent with every answer as x-backend")
	encrypted := flags.Bool("tls", false, "serve TLS, with a certificate that nobody has signed")
	_ = flags.Parse(args)
	mux := http.NewServeMux()
	mux.HandleFunc("/", echo)
	mux.HandleFunc("/status/{status}", answerStatus)
	mux.HandleFunc("/delay/{ms}", delay)
	mux.HandleFunc("/bytes/{size}", sized)
	mux.HandleFunc("/stream/{lines}/{ms}", stream)
	mux.HandleFunc("/trailers", trailers)
	mux.HandleFunc("/early", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "not wanted", http.StatusForbidden)
	})
	mux.HandleFunc("/abort", abort)
	named := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("x-backend", *name)
		mux.ServeHTTP(w, r)
	})
	if *encrypted {
		return serveTLS(*address, named)
	}
	return serveHTTP(*address, named)
}

// echo tells what it has seen. Whatever is between two hops only (connection,
// and HTTP's own version) is in fields of its own, for those who care.
func echo(w http.ResponseWriter, r *http.Request) {
	hash := sha256.New()
	size, err := io.Copy(hash, r.Body)
	w.Header().Set("x-proto", r.Proto)
	w.Header().Set("content-type", "text/plain")
	fmt.Fprintf(w, "%s %s host=%s length=%d\n", r.Method, r.RequestURI, r.Host, r.ContentLength)
	for _, line := range fields(r.Header) {
		// What the mesh says in its own name is told on request only: so the answer is the same with and without it.
		if !strings.HasPrefix(line, "mesh-") || r.URL.Query().Has("mesh") {
			fmt.Fprintln(w, line)
		}
	}
	fmt.Fprintf(w, "body %d bytes, sha256 %s, error %v\n", size, hex.EncodeToString(hash.Sum(nil)), err)
	for _, line := range fields(r.Trailer) {
		fmt.Fprintf(w, "trailer %s\n", line)
	}
}

// fields lists header fields in order, without those of a single hop.
func fields(header http.Header) []string {
	lines := make([]string, 0, len(header))
	for name, values := range header {
		if name == "Connection" {
			continue
		}
		for _, value := range values {
			lines = append(lines, strings.ToLower(name)+": "+value)
		}
	}
	sort.Strings(lines)
	return lines
}

func number(w http.ResponseWriter, r *http.Request, name string, most int) (int, bool) {
	value, err := strconv.Atoi(r.PathValue(name))
	if err != nil || value < 0 || value > most {
		http.Error(w, "a bad number: "+r.PathValue(name), http.StatusBadRequest)
		return 0, false
	}
	return value, true
}

func answerStatus(w http.ResponseWriter, r *http.Request) {
	code, ok := number(w, r, "status", 599)
	if !ok || code < 200 {
		return
	}
	w.Header().Set("x-status", strconv.Itoa(code))
	w.WriteHeader(code)
	if code != http.StatusNoContent && code != http.StatusNotModified {
		fmt.Fprintf(w, "status %d\n", code)
	}
}

func delay(w http.ResponseWriter, r *http.Request) {
	ms, ok := number(w, r, "ms", 60_000)
	if !ok {
		return
	}
	select {
	case <-time.After(time.Duration(ms) * time.Millisecond):
		fmt.Fprintf(w, "after %d ms\n", ms)
	case <-r.Context().Done():
	}
}

func sized(w http.ResponseWriter, r *http.Request) {
	size, ok := number(w, r, "size", maxBytes)
	if !ok {
		return
	}
	w.Header().Set("content-type", "application/octet-stream")
	w.Header().Set("content-length", strconv.Itoa(size))
	for seed := uint32(0); size > 0; seed++ {
		part := pattern(min(size, 1<<16), seed)
		if _, err := w.Write(part); err != nil {
			return
		}
		size -= len(part)
	}
}

func stream(w http.ResponseWriter, r *http.Request) {
	lines, ok := number(w, r, "lines", 1_000_000)
	if !ok {
		return
	}
	ms, ok := number(w, r, "ms", 10_000)
	if !ok {
		return
	}
	w.Header().Set("content-type", "text/plain")
	control := http.NewResponseController(w)
	for line := range lines {
		if _, err := fmt.Fprintf(w, "line %d\n", line); err != nil {
			return
		}
		if control.Flush() != nil {
			return
		}
		select {
		case <-time.After(time.Duration(ms) * time.Millisecond):
		case <-r.Context().Done():
			return
		}
	}
}

func trailers(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("trailer", "x-sum, x-end")
	w.Header().Set("content-type", "text/plain")
	fmt.Fprintln(w, "a body with trailers")
	_ = http.NewResponseController(w).Flush()
	w.Header().Set("x-sum", "42")
	w.Header().Set("x-end", "yes")
}

func abort(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("content-length", "1000")
	_, _ = w.Write(pattern(500, 1))
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}
