package balancer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

func TestStrange(t *testing.T) {
	for _, tc := range []struct {
		holders, known []string
		want           string
	}{
		{nil, nil, ""},
		{[]string{"aa"}, []string{"aa", "bb"}, ""},
		{[]string{"cc"}, []string{"aa", "bb"}, "cc"},
		{[]string{"aa", "cc"}, []string{"aa", "bb"}, "cc"},
		{[]string{"cc"}, nil, "cc"},
	} {
		if got := strange(tc.holders, tc.known); got != tc.want {
			t.Errorf("%v have the address and %v are known: %q", tc.holders, tc.known, got)
		}
	}
}

// TestAStrangerKeepsTheAddressAway gives the watchdog the results of consecutive looks.
func TestAStrangerKeepsTheAddressAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		type look struct {
			mac string
			err error
		}
		looks := []look{{"cc", nil}, {"", nil}, {"cc", nil}, {"cc", nil}, {"", errors.New("no answer")}, {"", nil}}
		var now look
		s := &strangers{looked: make(chan struct{})}
		var said bytes.Buffer
		n := 0
		go s.watch(ctx, log.New(&said, "", 0), func(context.Context) (string, error) {
			now = looks[min(n, len(looks)-1)]
			n++
			return now.mac, now.err
		})
		for i, want := range []bool{false, true, true, false, false} {
			if i > 0 {
				time.Sleep(strangerPace)
			}
			time.Sleep(strangerAgain)
			synctest.Wait()
			if s.present.Load() != want {
				t.Errorf("after round %d and %d looks: %t", i, n, s.present.Load())
			}
		}
		cancel()
		synctest.Wait()
		if text := said.String(); strings.Count(text, "no peer") != 1 || strings.Count(text, "any more") != 1 {
			t.Errorf("said: %s", text)
		}
	})
}

// TestOurOwnConfiguration reads what the spec is rendered to. keepalived rejects unicast without peers, so the only load balancer
// of a cluster must not be configured for it.
func TestOurOwnConfiguration(t *testing.T) {
	for _, balancers := range []int{1, 3} {
		c := spec.DefaultLab("test")
		c.Spec.Hosts = slices.DeleteFunc(c.Spec.Hosts, func(h spec.Host) bool { return h.Has(spec.RoleLoadBalancer) })
		for i := range balancers {
			c.Spec.Hosts = append(c.Spec.Hosts, spec.Host{Name: fmt.Sprint("lb-", i), Address: fmt.Sprint("10.0.0.1", i), Roles: []string{spec.RoleLoadBalancer}})
		}
		c.Spec.LoadBalancer.Address = "10.0.0.100"
		h := c.BalancerHosts()[0]
		read := false
		for _, f := range hostconfig.Balancer(c, h, &facts.Facts{Addresses: []facts.Address{{IP: h.Address, Prefix: 24, Interface: "eth0"}}}, "CA").Files {
			if f.Path != hostconfig.KeepalivedFile {
				continue
			}
			read = true
			if from := sourcesOf(f.Content); !slices.Equal(from, []string{h.Address}) {
				t.Errorf("%d: advertisements come from %q", balancers, from)
			}
			if known := peers(f.Content); len(known) != balancers-1 {
				t.Errorf("%d: peers %v", balancers, known)
			}
			if strings.Contains(f.Content, "unicast_peer") != (balancers > 1) || strings.Contains(f.Content, "unicast_src_ip") != (balancers > 1) {
				t.Errorf("%d: unicast without peers, or none with them: %s", balancers, f.Content)
			}
		}
		if !read {
			t.Error("keepalived has no configuration")
		}
	}
}
