package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/coder/websocket"
)

// Largest message, in bytes.
const maxFrame = 64 << 20

// wsServer echoes messages. A text that begins with "close " and a code is
// answered by closing with it; "ping" makes the server ping its client.
func wsServer(args []string) error {
	flags := flag.NewFlagSet("ws-server", flag.ExitOnError)
	address := flags.String("listen", "127.0.0.1:0", "address to listen on")
	_ = flags.Parse(args)
	return serveHTTP(*address, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("x-seen", fmt.Sprintf("%s %s %s", r.Host, r.RequestURI, r.Header.Get("x-test")))
		if r.URL.Path == "/refused" {
			http.Error(w, "no socket here", http.StatusTeapot)
			return
		}
		options := &websocket.AcceptOptions{
			Subprotocols:       []string{"second", "first"},
			InsecureSkipVerify: true,
			CompressionMode:    websocket.CompressionContextTakeover,
		}
		socket, err := websocket.Accept(w, r, options)
		if err != nil {
			return
		}
		defer socket.CloseNow()
		socket.SetReadLimit(maxFrame)
		_ = echoMessages(r.Context(), socket)
	}))
}

func echoMessages(ctx context.Context, socket *websocket.Conn) error {
	for {
		kind, data, err := socket.Read(ctx)
		if err != nil {
			return err
		}
		var code int
		if kind == websocket.MessageText && string(data) == "ping" {
			// Answered only while the client reads, which it does.
			reading := socket.CloseRead(ctx)
			if err := socket.Ping(reading); err != nil {
				return err
			}
			return socket.Close(websocket.StatusNormalClosure, "pinged")
		}
		if n, _ := fmt.Sscanf(string(data), "close %d", &code); n == 1 && len(data) < 20 {
			return socket.Close(websocket.StatusCode(code), fmt.Sprintf("as asked: %d", code))
		}
		if err := socket.Write(ctx, kind, data); err != nil {
			return err
		}
	}
}

type wsPeer struct {
	target string
}

// wsClient speaks with the server in all ways that the protocol has, and
// prints what comes back.
func wsClient(args []string) error {
	flags := flag.NewFlagSet("ws-client", flag.ExitOnError)
	target := flags.String("target", "", "address of the server, or of what stands before it")
	_ = flags.Parse(args)
	p := &wsPeer{target: *target}
	steps := []struct {
		title string
		play  func(context.Context) error
	}{
		{"handshake", p.handshake},
		{"refused", p.refused},
		{"messages", p.messages},
		{"compressed", p.compressed},
		{"fragments", p.fragments},
		{"pipelined", p.pipelined},
		{"pings", p.pings},
		{"close codes", p.closeCodes},
		{"idle, then used", p.idle},
		{"many at once", p.many},
	}
	for _, s := range steps {
		step(s.title)
		ctx, cancel := context.WithTimeout(context.Background(), stepDeadline)
		err := s.play(ctx)
		cancel()
		if err != nil {
			return fmt.Errorf("%s: %w", s.title, err)
		}
	}
	step("end")
	return nil
}

func (p *wsPeer) dial(ctx context.Context, path string, options *websocket.DialOptions) (*websocket.Conn, *http.Response, error) {
	options.Host = "ws.test"
	socket, response, err := websocket.Dial(ctx, "ws://"+p.target+path, options)
	if err == nil {
		socket.SetReadLimit(maxFrame)
	}
	return socket, response, err
}

func (p *wsPeer) plain(ctx context.Context) (*websocket.Conn, error) {
	socket, _, err := p.dial(ctx, "/", &websocket.DialOptions{})
	return socket, err
}

func (p *wsPeer) handshake(ctx context.Context) error {
	header := http.Header{"X-Test": {"kept"}}
	options := &websocket.DialOptions{HTTPHeader: header, Subprotocols: []string{"first", "second"}}
	socket, response, err := p.dial(ctx, "/chat?room=a%20b", options)
	if err != nil {
		return err
	}
	defer socket.CloseNow()
	say("%s, subprotocol %q", response.Status, socket.Subprotocol())
	for _, name := range []string{"Upgrade", "Connection", "X-Seen"} {
		say("%s: %s", strings.ToLower(name), strings.ToLower(response.Header.Get(name)))
	}
	return socket.Close(websocket.StatusNormalClosure, "done")
}

func (p *wsPeer) refused(ctx context.Context) error {
	_, response, err := p.dial(ctx, "/refused", &websocket.DialOptions{})
	if err == nil || response == nil {
		return fmt.Errorf("not refused: %v", err)
	}
	body, _ := io.ReadAll(response.Body)
	say("%s %q %s", response.Status, body, response.Header.Get("X-Seen"))
	return nil
}

func exchange(ctx context.Context, socket *websocket.Conn, kind websocket.MessageType, data []byte) error {
	// Written beside the reading: a large echo begins before its message ends.
	written := make(chan error, 1)
	go func() { written <- socket.Write(ctx, kind, data) }()
	back, echo, err := socket.Read(ctx)
	if err != nil {
		return err
	}
	say("%s of %d bytes: %s of %s", kind, len(data), back, digest(echo))
	return <-written
}

func (p *wsPeer) messages(ctx context.Context) error {
	socket, err := p.plain(ctx)
	if err != nil {
		return err
	}
	defer socket.CloseNow()
	for _, size := range []int{0, 1, 125, 126, 65_535, 65_536, 1 << 20, 8 << 20} {
		if err := exchange(ctx, socket, websocket.MessageBinary, pattern(size, uint32(size))); err != nil {
			return err
		}
		if err := exchange(ctx, socket, websocket.MessageText, []byte(strings.Repeat("a", size))); err != nil {
			return err
		}
	}
	return socket.Close(websocket.StatusNormalClosure, "")
}

func (p *wsPeer) compressed(ctx context.Context) error {
	socket, response, err := p.dial(ctx, "/", &websocket.DialOptions{CompressionMode: websocket.CompressionContextTakeover})
	if err != nil {
		return err
	}
	defer socket.CloseNow()
	say("extensions %s", response.Header.Get("Sec-Websocket-Extensions"))
	for range 3 {
		if err := exchange(ctx, socket, websocket.MessageText, []byte(strings.Repeat("the same again ", 2000))); err != nil {
			return err
		}
	}
	return socket.Close(websocket.StatusNormalClosure, "")
}

func (p *wsPeer) fragments(ctx context.Context) error {
	socket, err := p.plain(ctx)
	if err != nil {
		return err
	}
	defer socket.CloseNow()
	writer, err := socket.Writer(ctx, websocket.MessageBinary)
	if err != nil {
		return err
	}
	for number := range 64 {
		if _, err := writer.Write(pattern(5000, uint32(number))); err != nil {
			return err
		}
	}
	if err := writer.Close(); err != nil {
		return err
	}
	kind, echo, err := socket.Read(ctx)
	say("%s of %s", kind, digest(echo))
	return err
}

// pipelined sends all messages before it reads the first echo.
func (p *wsPeer) pipelined(ctx context.Context) error {
	socket, err := p.plain(ctx)
	if err != nil {
		return err
	}
	defer socket.CloseNow()
	const messages = 500
	for number := range messages {
		if err := socket.Write(ctx, websocket.MessageText, fmt.Appendf(nil, "message %d", number)); err != nil {
			return err
		}
	}
	for number := range messages {
		_, echo, err := socket.Read(ctx)
		if err != nil {
			return err
		}
		if want := fmt.Sprintf("message %d", number); string(echo) != want {
			return fmt.Errorf("%q instead of %q", echo, want)
		}
	}
	say("%d in order", messages)
	return nil
}

func (p *wsPeer) pings(ctx context.Context) error {
	socket, err := p.plain(ctx)
	if err != nil {
		return err
	}
	defer socket.CloseNow()
	reading := socket.CloseRead(ctx)
	for range 3 {
		if err := socket.Ping(reading); err != nil {
			return err
		}
	}
	say("three pongs")
	// The other way round: the server pings, and closes once it has the pong.
	other, err := p.plain(ctx)
	if err != nil {
		return err
	}
	defer other.CloseNow()
	if err := other.Write(ctx, websocket.MessageText, []byte("ping")); err != nil {
		return err
	}
	_, _, err = other.Read(ctx)
	say("the server closed with %d", websocket.CloseStatus(err))
	return nil
}

func (p *wsPeer) closeCodes(ctx context.Context) error {
	for _, code := range []int{1000, 1001, 1008, 1011, 3000, 4999} {
		socket, err := p.plain(ctx)
		if err != nil {
			return err
		}
		if err := socket.Write(ctx, websocket.MessageText, fmt.Appendf(nil, "close %d", code)); err != nil {
			return err
		}
		_, _, err = socket.Read(ctx)
		var closed websocket.CloseError
		if !errors.As(err, &closed) {
			return err
		}
		say("%d %q", closed.Code, closed.Reason)
		socket.CloseNow()
	}
	return nil
}

// idle leaves the socket alone for longer than a request may wait.
func (p *wsPeer) idle(ctx context.Context) error {
	socket, err := p.plain(ctx)
	if err != nil {
		return err
	}
	defer socket.CloseNow()
	time.Sleep(2 * time.Second)
	return exchange(ctx, socket, websocket.MessageText, []byte("still there"))
}

func (p *wsPeer) many(ctx context.Context) error {
	const sockets = 50
	results := make(chan error, sockets)
	for number := range sockets {
		go func() {
			socket, err := p.plain(ctx)
			if err != nil {
				results <- err
				return
			}
			defer socket.CloseNow()
			for range 10 {
				if err := socket.Write(ctx, websocket.MessageText, fmt.Appendf(nil, "from %d", number)); err != nil {
					results <- err
					return
				}
				if _, echo, err := socket.Read(ctx); err != nil || string(echo) != fmt.Sprintf("from %d", number) {
					results <- fmt.Errorf("socket %d got %q: %w", number, echo, err)
					return
				}
			}
			results <- nil
		}()
	}
	for range sockets {
		if err := <-results; err != nil {
			return err
		}
	}
	say("%d sockets", sockets)
	return nil
}
