//go:build lab

package lab

import (
	"strings"
	"testing"
	"time"
)

// TestFamilies makes labs with IPv6, alone and beside IPv4. Machines have no address of a family that they should not have, reach each
// other and nothing else, and cuts act on both families.
func TestFamilies(t *testing.T) {
	for _, family := range []Family{IPv6, Dual} {
		t.Run(string(family), func(t *testing.T) {
			ctx := t.Context()
			l := create(t, ctx, Config{Name: testName(string(family)), Zones: []string{"a", "b"}, VirtualIPs: 1, Family: family,
				Machines: []Machine{{Name: "cp-a", Zone: "a"}, {Name: "cp-b", Zone: "b"}}})
			for _, m := range l.Machines() {
				if got := login(t, l, m, "hostname"); got != m.Name {
					t.Errorf("%s calls itself %q", m.Name, got)
				}
				own := login(t, l, m, "ip -o address show dev eth0 scope global")
				if strings.Contains(own, "inet ") != family.four() || !strings.Contains(own, "inet6 "+to6(m.Address).String()+"/64") || strings.Contains(own, "tentative") {
					t.Errorf("%s has\n%s", m.Name, own)
				}
			}
			b, err := l.Machine("cp-b")
			if err != nil {
				t.Fatal(err)
			}
			for _, target := range []string{"cp-b", "zone/b", "cp-a:cp-b"} {
				for _, a := range family.all(b.Address) {
					eventually(t, ctx, "cp-a reaches "+a.Addr().String(), func() bool { return ping(ctx, l, "cp-a", a.Addr()) })
				}
				if err := l.Cut(ctx, target); err != nil {
					t.Fatal(err)
				}
				time.Sleep(10 * time.Millisecond)
				for _, a := range family.all(b.Address) {
					if ping(ctx, l, "cp-a", a.Addr()) {
						t.Errorf("cut %s: cp-a still reaches %s", target, a.Addr())
					}
				}
				if err := l.Heal(ctx, target); err != nil {
					t.Fatal(err)
				}
			}
			for _, a := range callerAddresses(t, l) {
				if ping(ctx, l, "cp-a", a) {
					t.Errorf("a machine reaches %s, beyond the lab", a)
				}
			}
		})
	}
}
