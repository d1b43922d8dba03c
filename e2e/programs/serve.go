package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Long enough for every request of a test to end.
const drainDeadline = 20 * time.Second

// listen opens a listener and says so.
func listen(address string) (net.Listener, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	say("listening on %s", listener.Addr())
	return listener, nil
}

// terminated is done once the process is asked to end.
func terminated() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
}

// serveHTTP serves HTTP/1.1 and HTTP/2 with prior knowledge until the process
// is asked to end, and then lets every request end that has begun.
func serveHTTP(address string, handler http.Handler) error {
	listener, err := listen(address)
	if err != nil {
		return err
	}
	return serveOn(listener, handler)
}

// serveTLS does the same over TLS, with a certificate made for the occasion.
func serveTLS(address string, handler http.Handler) error {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		return err
	}
	listener, err := listen(address)
	if err != nil {
		return err
	}
	own := tls.Certificate{Certificate: [][]byte{certificate}, PrivateKey: private}
	return serveOn(tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{own}}), handler)
}

func serveOn(listener net.Listener, handler http.Handler) error {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: handler, Protocols: &protocols, ReadHeaderTimeout: 30 * time.Second}
	ctx, cancel := terminated()
	defer cancel()
	drained := make(chan error, 1)
	go func() {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.Background(), drainDeadline)
		defer cancel()
		drained <- server.Shutdown(grace)
	}()
	if err := server.Serve(listener); err != http.ErrServerClosed {
		return err
	}
	return <-drained
}
