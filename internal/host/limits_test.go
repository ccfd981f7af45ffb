package host_test

import (
	"encoding/json"
	"errors"
	"net"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/buildid"
	"quorate.dev/quorate/internal/host"
)

// TestLimits: within limits, an operation or an address that is not allowed is refused on the host, before anything is done.
func TestLimits(t *testing.T) {
	c, err := host.LimitedLocal(t.Context(), "cp-a", host.Limits{
		Allow: func(op string, request json.RawMessage) error {
			if op == double.Name() && string(request) != "4" {
				return nil
			}
			return errors.New("not allowed: " + op)
		},
		Dial: func(_, address string) error {
			if strings.HasPrefix(address, "127.0.0.1:") {
				return nil
			}
			return errors.New("no address of the cluster: " + address)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if n, err := double.On(t.Context(), c, 3); err != nil || n != 6 {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := double.On(t.Context(), c, 4); err == nil || !strings.Contains(err.Error(), "not allowed: test.double") {
		t.Errorf("a request that is not allowed: %v", err)
	}
	if _, err := sink.Send(t.Context(), c, struct{}{}, strings.NewReader("x")); err == nil || !strings.Contains(err.Error(), "not allowed: test.sink") {
		t.Errorf("an operation that is not allowed: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if nc, err := c.DialContext(t.Context(), "tcp", l.Addr().String()); err != nil {
		t.Error(err)
	} else {
		nc.Close()
	}
	if _, err := c.DialContext(t.Context(), "tcp", "127.0.0.2:1"); err == nil || !strings.Contains(err.Error(), "no address of the cluster") {
		t.Errorf("%v", err)
	}
}

// TestTheSameBuild: a caller of another build would send requests that mean something else.
func TestTheSameBuild(t *testing.T) {
	own := buildid.Own()
	if own == "" {
		t.Skip("this test was linked without a build ID")
	}
	for command, same := range map[string]bool{
		"sh -c '" + host.AskFor(own) + "'": true, host.AskFor(own): true, host.AskFor("1234"): false, host.AskFor(""): false, "": false, "sh": false,
	} {
		if err := host.SameBuild(command); (err == nil) != same {
			t.Errorf("%s: %v", command, err)
		}
	}
}
