package reach

import (
	"net"
	"slices"
	"testing"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
)

// TestPathsAreTriedForReal listens and dials on the loopback, in every way that a path can end without a firewall.
func TestPathsAreTriedForReal(t *testing.T) {
	c, err := host.Local(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	taken, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	held := taken.Addr().(*net.TCPAddr).Port
	free := func() int {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().(*net.TCPAddr).Port
	}
	port, closed := free(), free()
	listening, err := Listen.On(t.Context(), c, ListenRequest{Name: "cp-b", Address: "127.0.0.1", TCP: []int{port, held}, UDP: []int{port}})
	if err != nil || !slices.Equal(listening.TCP, []int{port}) || !slices.Equal(listening.UDP, []int{port}) {
		t.Fatalf("%+v, %v", listening, err)
	}
	path := func(to, proto string, port int) facts.Path {
		return facts.Path{From: "cp-a", To: to, Address: "127.0.0.1", Proto: proto, Port: port}
	}
	targets := []DialTarget{
		{Path: path("cp-b", facts.TCP, port), Answers: true},
		{Path: path("cp-b", facts.TCP, held)},
		{Path: path("cp-b", facts.TCP, closed)},
		{Path: path("cp-c", facts.TCP, port), Answers: true},
		{Path: path("cp-b", facts.UDP, port), Answers: true, Size: 1500},
		{Path: path("cp-b", facts.UDP, closed), Answers: true},
		{Path: path("cp-c", facts.UDP, port), Answers: true},
	}
	want := []facts.Outcome{facts.Reached, facts.Reached, facts.Refused, facts.Impostor, facts.Reached, facts.Refused, facts.Impostor}
	results, err := DialAll.On(t.Context(), c, targets)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range results {
		if r.Outcome != want[i] || r.Path != targets[i].Path {
			t.Errorf("%+v: %s (%s), want %s", targets[i].Path, r.Outcome, r.Detail, want[i])
		}
	}
	if !results[4].Fits || results[4].Size != 1500 {
		t.Errorf("a packet of 1500 bytes: %+v", results[4])
	}
	if _, err := Hush.On(t.Context(), c, listening.Token); err != nil {
		t.Fatal(err)
	}
	if results, err = DialAll.On(t.Context(), c, targets[:1]); err != nil || results[0].Outcome != facts.Refused {
		t.Errorf("after the end: %+v, %v", results, err)
	}
}

// TestPathsOfIPv6AreTried on the loopback: addresses of that family alone decide over which one is listened and dialed.
func TestPathsOfIPv6AreTried(t *testing.T) {
	if l, err := net.Listen("tcp6", "[::1]:0"); err != nil {
		t.Skip("this computer has no IPv6 on its loopback:", err)
	} else {
		l.Close()
	}
	c, err := host.Local(t.Context(), "test")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	taken, err := net.Listen("tcp4", "127.0.0.1:0") // the port is free for the other family
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port
	listening, err := Listen.On(t.Context(), c, ListenRequest{Name: "cp-b", Address: "::1", TCP: []int{port}, UDP: []int{port}, VRRP: true})
	if err != nil || !slices.Equal(listening.TCP, []int{port}) || !slices.Equal(listening.UDP, []int{port}) {
		t.Fatalf("%+v, %v", listening, err)
	}
	path := func(proto string) facts.Path {
		return facts.Path{From: "cp-a", To: "cp-b", Address: "::1", Proto: proto, Port: port}
	}
	targets := []DialTarget{{Path: path(facts.TCP), Answers: true}, {Path: path(facts.UDP), Answers: true, Size: 1500}}
	if listening.VRRP { // as root
		targets = append(targets, DialTarget{Path: path(facts.VRRP), Answers: true})
	}
	results, err := DialAll.On(t.Context(), c, targets)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if r.Outcome != facts.Reached {
			t.Errorf("%s: %s (%s)", r.Proto, r.Outcome, r.Detail)
		}
	}
	if !results[1].Fits {
		t.Errorf("a packet of 1500 bytes: %+v", results[1])
	}
}

// TestAnswers: what a router forwarded would be ignored by keepalived, and another host's answer tells nothing about this one.
func TestAnswers(t *testing.T) {
	for text, want := range map[string]facts.Outcome{
		"lb-b 64 ttl=255\n": facts.Reached,
		"lb-b 64 ttl=254\n": facts.Routed,
		"lb-c 64 ttl=255\n": facts.Impostor,
		"lb-c 64 ttl=254\n": facts.Impostor,
		"lb-b 1500\n":       facts.Reached, // over UDP
	} {
		if got, detail := answered([]byte(string(probeAnswer)+text), "lb-b"); got != want || (got == facts.Routed) != (detail == "TTL 254") {
			t.Errorf("%q: %s (%s), want %s", text, got, detail, want)
		}
	}
}
