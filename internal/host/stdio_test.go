package host

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMain is also the host side of a session: see TestASessionThatBreaks.
func TestMain(m *testing.M) {
	if os.Getenv("TEST_HOST_SIDE") != "" {
		if err := ServeStdio(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// talks does something that must be done when the caller has gone.
var talks = Define("test.talks", func(ctx context.Context, folder string) (struct{}, error) {
	if err := os.WriteFile(filepath.Join(folder, "began"), nil, 0o600); err != nil {
		return struct{}{}, err
	}
	<-ctx.Done()
	time.Sleep(50 * time.Millisecond) // so that others write to stdout, which is gone
	return struct{}{}, os.WriteFile(filepath.Join(folder, "ended"), []byte("in order"), 0o600)
})

// TestASessionThatBreaks: both pipes break at the same time, as when sshd drops the session. What runs is canceled and comes to its end
// before the process does.
func TestASessionThatBreaks(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "TEST_HOST_SIDE=yes")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(stdout)
	if _, err := awaitGreeting(r, ready); err != nil {
		t.Fatal(err)
	}
	s, err := newSession(t.Context(), &pipeConn{Reader: r, Writer: stdin, closed: make(chan struct{}), close: func() { stdout.Close(); stdin.Close() }})
	if err != nil {
		t.Fatal(err)
	}
	c := connOf("cp-a", s)
	// What a connection still sends makes the host side write to the session in its last moments.
	nc, err := c.DialContext(t.Context(), "tcp", remote(t, func(nc *net.TCPConn) { io.Copy(nc, zeros{}) })) //nolint:errcheck // it ends with the session
	if err != nil {
		t.Fatal(err)
	}
	go io.Copy(io.Discard, nc)       //nolint:errcheck // see above
	go talks.On(t.Context(), c, dir) //nolint:errcheck // its session ends
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(filepath.Join(dir, "began")); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the operation did not begin: %s", &stderr)
		}
	}
	c.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("the host side ended with %v: %s", err, &stderr)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "ended")); err != nil || string(data) != "in order" {
		t.Errorf("the operation was torn apart: %q, %v", data, err)
	}
}
