package main

import (
	"flag"
	"io"
	"net"
)

// tcpEcho sends back what it gets, and closes its half when the other half is
// closed. With -greeting it speaks first.
func tcpEcho(args []string) error {
	flags := flag.NewFlagSet("tcp-echo", flag.ExitOnError)
	address := flags.String("listen", "127.0.0.1:0", "address to listen on")
	greeting := flags.String("greeting", "", "sent before anything is read")
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
			if _, err := io.WriteString(connection, *greeting); err != nil {
				return
			}
			if _, err := io.Copy(connection, connection); err == nil {
				_ = connection.(*net.TCPConn).CloseWrite()
			}
		}()
	}
}
