package spec

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"regexp"
	"testing"
)

func TestPatternOf(t *testing.T) {
	for text, tc := range map[string]struct{ in, out []string }{
		"10.1.0.0/24":              {[]string{"10.1.0.1", "10.1.0.255"}, []string{"10.1.1.1", "110.1.0.1", "10.1.0.1.5", "10.10.0.1", "fd00::10.1.0.1", "eth0", ""}},
		"10.1.16.0/20":             {[]string{"10.1.16.1", "10.1.31.9"}, []string{"10.1.15.1", "10.1.32.1", "10.1.3.1", "10.1.1.1"}},
		"10.1.0.9/32":              {[]string{"10.1.0.9"}, []string{"10.1.0.99", "10.1.0.90"}},
		"fd00:1::/64":              {[]string{"fd00:1::1", "fd00:1::a:b:c:d", "fd00:1:0:0:a::"}, []string{"fd00:1:0:1::1", "fd00:1:1::1", "fd00:1::1:0:0:0:5", "fd00:10::1"}},
		"fd00:0:0:1::/64":          {[]string{"fd00::1:a:b:c:d", "fd00:0:0:1::5"}, []string{"fd00::1:a:b:c", "fd00:0:0:2::5"}},
		"2001:db8::/32":            {[]string{"2001:db8::1", "2001:db8:1::1", "2001:db8:1:2:3:4:5:6"}, []string{"2001:db9::1"}},
		"10.1.0.0/24, fd00:1::/64": {[]string{"10.1.0.1", "fd00:1::1"}, []string{"10.2.0.1", "fd00:2::1"}},
	} {
		r := regexp.MustCompile(PatternOf(ranges(regexp.MustCompile(" ").ReplaceAllString(text, ""))))
		for _, a := range tc.in {
			if !r.MatchString(a) {
				t.Errorf("%s: %s does not match %s", text, a, r)
			}
		}
		for _, a := range tc.out {
			if r.MatchString(a) {
				t.Errorf("%s: %q matches %s", text, a, r)
			}
		}
	}
}

// TestPatternsMatchWhatTheRangesContain tries random ranges with random addresses, most of them in or near the range, with many zeros.
func TestPatternsMatchWhatTheRangesContain(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	inside := 0
	for range 3000 {
		size, step := 4, 1
		if r.IntN(3) > 0 {
			size, step = 16, 16
		}
		bytes := make([]byte, size)
		for i := range bytes {
			if r.IntN(3) == 0 {
				bytes[i] = byte(r.IntN(3))
			}
		}
		base, _ := netip.AddrFromSlice(bytes)
		p := netip.PrefixFrom(base, r.IntN(8*size/step+1)*step).Masked()
		pattern := regexp.MustCompile(PatternOf([]netip.Prefix{p}))
		for range 20 {
			near := p.Addr().AsSlice()
			for range r.IntN(3) {
				near[r.IntN(size)] = byte(r.IntN(3))
			}
			if r.IntN(2) == 0 {
				near[size-1-r.IntN(min(size, 8))] ^= byte(1 << r.IntN(8))
			}
			a, _ := netip.AddrFromSlice(near)
			if a.Is4In6() { // an IPv4 address for flannel
				continue
			}
			if p.Contains(a) {
				inside++
			}
			if text := net.IP(near).String(); pattern.MatchString(text) != p.Contains(a) { // the text that flannel compares
				t.Fatalf("%s contains %s: %t, but the pattern is %s", p, text, p.Contains(a), pattern)
			}
		}
	}
	if inside < 5000 {
		t.Errorf("only %d addresses were inside", inside)
	}
}
