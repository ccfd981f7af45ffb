package host

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// remote listens, and gives each connection to serve.
func remote(t *testing.T, serve func(*net.TCPConn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			go serve(nc.(*net.TCPConn))
		}
	}()
	return l.Addr().String()
}

func dialed(t *testing.T, c *Conn, addr string) net.Conn {
	t.Helper()
	nc, err := c.DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	return nc
}

// TestHalfCloseToTheRemoteEnd: the remote end answers only after it has seen the end of what was written.
func TestHalfCloseToTheRemoteEnd(t *testing.T) {
	addr := remote(t, func(nc *net.TCPConn) {
		data, _ := io.ReadAll(nc)
		io.WriteString(nc, strings.ToUpper(string(data))) //nolint:errcheck // the test would notice
		nc.Close()
	})
	nc := dialed(t, local(t), addr)
	if _, err := io.WriteString(nc, "hello"); err != nil {
		t.Fatal(err)
	}
	if err := nc.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if data, err := io.ReadAll(nc); err != nil || string(data) != "HELLO" {
		t.Errorf("read %q, %v", data, err)
	}
}

// TestHalfCloseOfTheRemoteEnd: the remote end writes no more, and goes on reading.
func TestHalfCloseOfTheRemoteEnd(t *testing.T) {
	got := make(chan string, 1)
	addr := remote(t, func(nc *net.TCPConn) {
		nc.CloseWrite() //nolint:errcheck // the test would notice
		data, _ := io.ReadAll(nc)
		got <- string(data)
	})
	nc := dialed(t, local(t), addr)
	if data, err := io.ReadAll(nc); err != nil || len(data) > 0 {
		t.Fatalf("read %q, %v", data, err)
	}
	if _, err := io.WriteString(nc, "still here"); err != nil {
		t.Fatal(err)
	}
	nc.Close()
	if s := <-got; s != "still here" {
		t.Errorf("the remote end read %q", s)
	}
}

func TestLargeTransfersBothWays(t *testing.T) {
	const size = 8 << 20
	addr := remote(t, func(nc *net.TCPConn) { io.Copy(nc, nc); nc.CloseWrite() }) //nolint:errcheck // the test would notice
	nc := dialed(t, local(t), addr)
	go func() {
		io.Copy(nc, io.LimitReader(zeros{}, size))        //nolint:errcheck // the test would notice
		nc.(interface{ CloseWrite() error }).CloseWrite() //nolint:errcheck // see above
	}()
	if n, err := io.Copy(io.Discard, nc); err != nil || n != size {
		t.Errorf("%d bytes came back, %v", n, err)
	}
}

// TestWhyAConnectionFails: what the host finds out is an answer with its reason, not a broken session.
func TestWhyAConnectionFails(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	l.Close()
	c := local(t)
	_, err = c.DialContext(t.Context(), "tcp", nobody)
	var answer *Error
	if !errors.As(err, &answer) || !errors.Is(err, syscall.ECONNREFUSED) || Unanswered(err) || !strings.HasPrefix(err.Error(), "cp-a: dial tcp "+nobody) {
		t.Errorf("a closed port: %v", err)
	}

	// A queue that is full: connections are neither accepted nor refused.
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	full := (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: name.(*syscall.SockaddrInet4).Port}).String()
	for range 8 {
		if nc, err := net.DialTimeout("tcp", full, 50*time.Millisecond); err == nil {
			defer nc.Close()
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	_, err = c.DialContext(ctx, "tcp", full)
	var timeout net.Error
	if !errors.As(err, &answer) || !errors.As(err, &timeout) || !timeout.Timeout() || Unanswered(err) {
		t.Errorf("a port that does not answer: %v", err)
	}

	c.Close()
	var session *SessionError
	if _, err = c.DialContext(t.Context(), "tcp", nobody); !errors.As(err, &session) || !Unanswered(err) || errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a session that ended: %v", err)
	}
}

func TestConnectionsHaveDeadlines(t *testing.T) {
	nc := dialed(t, local(t), remote(t, func(*net.TCPConn) {}))
	if err := nc.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v", err)
	}
	if err := nc.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	if _, err := nc.Write([]byte("x")); err != nil {
		t.Errorf("the deadline was taken back, and still: %v", err)
	}
}

// TestAResetIsNoEnd: what reads to the end must not take half of an answer for all of it.
func TestAResetIsNoEnd(t *testing.T) {
	addr := remote(t, func(nc *net.TCPConn) {
		io.WriteString(nc, "half an ans") //nolint:errcheck // the test would notice
		io.ReadFull(nc, make([]byte, 2))  //nolint:errcheck // see above
		nc.SetLinger(0)                   //nolint:errcheck // see above
		nc.Close()
	})
	nc := dialed(t, local(t), addr)
	buf := make([]byte, 11)
	if _, err := io.ReadFull(nc, buf); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(nc, "go"); err != nil {
		t.Fatal(err)
	}
	_, err := io.ReadAll(nc)
	if !errors.Is(err, syscall.ECONNRESET) || Unanswered(err) {
		t.Errorf("read ended with %v", err)
	}
	if _, err := nc.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("write: %v", err)
	}
}

// TestTheSessionEndsUnderAConnection: that says nothing about the remote end.
func TestTheSessionEndsUnderAConnection(t *testing.T) {
	closed := make(chan error, 1)
	addr := remote(t, func(nc *net.TCPConn) {
		_, err := nc.Read(make([]byte, 1))
		closed <- err
	})
	c := local(t)
	nc := dialed(t, c, addr)
	c.Close()
	if _, err := nc.Read(make([]byte, 1)); !Unanswered(err) {
		t.Errorf("read: %v", err)
	}
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Error("the host kept the connection")
	}
}

func TestCloseReachesTheRemoteEnd(t *testing.T) {
	closed := make(chan error, 1)
	addr := remote(t, func(nc *net.TCPConn) {
		data := make([]byte, 16)
		n, _ := io.ReadFull(nc, data[:3])
		_, err := nc.Read(data)
		if n != 3 || string(data[:3]) != "bye" {
			err = errors.New("the last bytes did not arrive")
		}
		closed <- err
	})
	nc, err := local(t).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(nc, "bye"); err != nil {
		t.Fatal(err)
	}
	nc.Close()
	select {
	case err := <-closed:
		if err != io.EOF {
			t.Errorf("the remote end saw %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the remote end was not told")
	}
	if _, err := nc.Read(make([]byte, 1)); err == nil {
		t.Error("a closed connection can be read")
	}
}

// TestManyConnectionsAtOnce is more than HTTP/2 allows without being told.
func TestManyConnectionsAtOnce(t *testing.T) {
	addr := remote(t, func(nc *net.TCPConn) { io.Copy(nc, nc) }) //nolint:errcheck // the test would notice
	c := local(t)
	for range 400 {
		nc := dialed(t, c, addr)
		if _, err := io.WriteString(nc, "x"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(nc, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
}
