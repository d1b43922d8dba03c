package main

import (
	"flag"
	"io"
	"net"
	"time"
)

// What an impostor answers to whatever it gets.
const impostorAnswer = "HTTP/1.1 200 OK\r\nx-backend: impostor\r\ncontent-length: 9\r\nconnection: close\r\n\r\nimpostor\n"

// impostor takes every connection, tells what comes over it, and answers it well.
func impostor(args []string) error {
	flags := flag.NewFlagSet("impostor", flag.ExitOnError)
	address := flags.String("listen", "127.0.0.1:0", "address to listen on")
	_ = flags.Parse(args)
	listener, err := listen(*address)
	if err != nil {
		return err
	}
	ctx, cancel := terminated()
	defer cancel()
	go func() {
		<-ctx.Done()
		_ = listener.Close()
	}()
	for {
		connection, err := listener.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		go func() {
			defer connection.Close()
			_ = connection.SetDeadline(time.Now().Add(certifyDeadline))
			got := make([]byte, 64<<10)
			for {
				size, err := connection.Read(got)
				if size > 0 {
					say("got %q", got[:size])
					_, _ = io.WriteString(connection, impostorAnswer)
					_ = connection.(*net.TCPConn).CloseWrite()
				}
				if err != nil {
					return
				}
			}
		}()
	}
}
