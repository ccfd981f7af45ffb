package balancer

import (
	"encoding/hex"
	"net"
	"net/netip"
	"slices"
	"testing"
)

// advertisement is one of Linux for fd00:1::100, with the hardware address 02:51:c6:12:05:0b.
const advertisement = "6000000000203aff" + "fe800000000000000051c6fffe12050b" + "ff020000000000000000000000000001" +
	"88000000a0000000" + "fd000001000000000000000000000100" + "02010251c612050b"

func TestNeighborDiscovery(t *testing.T) {
	address := netip.MustParseAddr("fd00:1::100")
	from, own := netip.MustParseAddr("fd00:1::11"), net.HardwareAddr{2, 0x51, 0xc6, 0x12, 5, 0x11}
	question := solicitation(from, own, address)
	// Adding up a packet with its checksum gives zero: here, in the same way as a receiver does it.
	sum := uint32(len(question)-ip6Header) + 58
	for i := ip6Src; i < len(question); i += 2 {
		sum += uint32(question[i])<<8 | uint32(question[i+1])
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	if sum != 0xffff {
		t.Errorf("the checksum of the question is wrong: %x", question)
	}
	if want, _ := hex.DecodeString("ff0200000000000000000001ff000100"); !slices.Equal(question[24:40], want) || question[7] != 255 || question[40] != 135 {
		t.Errorf("asks %x", question)
	}

	// Without the sender's address, a machine that starts would take the question for a claim on its address.
	if !slices.Equal(question[ip6Src:24], from.AsSlice()) || !slices.Equal(question[ndpOptions:], append([]byte{sourceLinkAddress, 1}, own...)) || int(question[5]) != len(question)-ip6Header {
		t.Errorf("asks as %x", question)
	}

	packet, err := hex.DecodeString(advertisement)
	if err != nil {
		t.Fatal(err)
	}
	if mac, ip, ok := parseAdvertisement(packet); !ok || mac.String() != "02:51:c6:12:05:0b" || ip != address {
		t.Errorf("%v, %v, %t", mac, ip, ok)
	}
	for what, change := range map[string]func([]byte) []byte{
		"forwarded by a router":    func(p []byte) []byte { p[7] = 254; return p },
		"a question":               func(p []byte) []byte { p[40] = 135; return p },
		"another protocol":         func(p []byte) []byte { p[6] = 17; return p },
		"without an option":        func(p []byte) []byte { return p[:ndpOptions] },
		"an option without a size": func(p []byte) []byte { p[ndpOptions+1] = 0; return p },
		"cut off":                  func(p []byte) []byte { return p[:50] },
		"an option that is cut":    func(p []byte) []byte { p[ndpOptions+1] = 2; return p },
	} {
		if mac, ip, ok := parseAdvertisement(change(slices.Clone(packet))); ok {
			t.Errorf("%s: %v has %v", what, mac, ip)
		}
	}
}
