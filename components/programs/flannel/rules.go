package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/flannel-io/flannel/pkg/backend"
	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/subnet"
	nft "github.com/flannel-io/flannel/pkg/trafficmngr/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"components.quorate.dev/flannel/health"
)

// chain is one of nftables.
type chain struct {
	family byte
	table  string
	name   string
}

func (c chain) String() string {
	return fmt.Sprintf("chain %s of table %s %s", c.name, c.familyName(), c.table)
}

func (c chain) familyName() string {
	return map[byte]string{unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6", unix.NFPROTO_INET: "inet"}[c.family]
}

// content is the chain's hook, policy, and rules as the kernel has them; empty if there is no such chain, or no rule in it. Only the
// kernel's form can be compared: it does not give back what it was given.
func (c chain) content() (string, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return "", fmt.Errorf("read the %s: %w", c, err)
	}
	defer conn.Close()
	var (
		content  strings.Builder
		nameless = netlink.Attribute{Type: unix.NFTA_CHAIN_TABLE, Data: []byte(c.table + "\x00")}
	)
	// Names are attribute 3 of a chain, and 2 of a rule.
	found, err := c.read(conn, unix.NFT_MSG_GETCHAIN, 0, []netlink.Attribute{nameless, {Type: unix.NFTA_CHAIN_NAME, Data: []byte(c.name + "\x00")}},
		unix.NFTA_CHAIN_HOOK, unix.NFTA_CHAIN_POLICY, unix.NFTA_CHAIN_TYPE)
	if errors.Is(err, unix.ENOENT) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read the %s: %w", c, err)
	}
	content.WriteString(found)
	rules, err := c.read(conn, unix.NFT_MSG_GETRULE, netlink.Dump, []netlink.Attribute{nameless, {Type: unix.NFTA_RULE_CHAIN, Data: []byte(c.name + "\x00")}},
		unix.NFTA_RULE_EXPRESSIONS)
	if err != nil {
		return "", fmt.Errorf("read the rules of the %s: %w", c, err)
	}
	if rules == "" {
		return "", nil
	}
	content.WriteString(rules)
	return content.String(), nil
}

// read asks the kernel and returns those attributes of the answers that are wanted.
func (c chain) read(conn *netlink.Conn, message uint16, flags netlink.HeaderFlags, ask []netlink.Attribute, wanted ...uint16) (string, error) {
	raw, err := netlink.MarshalAttributes(ask)
	if err != nil {
		return "", err
	}
	answers, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | message), Flags: netlink.Request | flags},
		Data:   append([]byte{c.family, unix.NFNETLINK_V0, 0, 0}, raw...),
	})
	if err != nil {
		return "", err
	}
	var out strings.Builder
	for _, a := range answers {
		if len(a.Data) < 4 {
			continue
		}
		attributes, err := netlink.NewAttributeDecoder(a.Data[4:])
		if err != nil {
			return "", err
		}
		for attributes.Next() {
			for _, w := range wanted {
				if attributes.Type() == w {
					out.Write(binary.BigEndian.AppendUint16(nil, w))
					out.Write(attributes.Bytes())
				}
			}
		}
		if err := attributes.Err(); err != nil {
			return "", err
		}
	}
	return out.String(), nil
}

// ruleset is chains that belong together: set makes all of them.
type ruleset struct {
	chains []chain
	set    func(context.Context) error
	// needed reports whether the chains have to exist at this time. Nil: always.
	needed func() bool

	mu   sync.Mutex
	want map[chain]string // their content after they were set
}

// apply sets the chains and remembers what the kernel made of them.
func (r *ruleset) apply(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.set(ctx); err != nil {
		return err
	}
	want := map[chain]string{}
	for _, c := range r.chains {
		content, err := c.content()
		if err != nil {
			return err
		}
		if content == "" {
			return fmt.Errorf("the %s is missing right after it was created", c)
		}
		want[c] = content
	}
	r.want = want
	return nil
}

// compare is a part.
func (r *ruleset) compare(context.Context) ([]fault, error) {
	if r.needed != nil && !r.needed() {
		return nil, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	f := fault{kind: health.Rules, restore: r.apply}
	for _, c := range r.chains {
		content, err := c.content()
		switch {
		case err != nil:
			return nil, err
		case content == "":
			f.objects = append(f.objects, c.String()+": missing")
		case content != r.want[c]:
			f.objects = append(f.objects, c.String()+": changed")
		}
	}
	if f.objects == nil {
		return nil, nil
	}
	return []fault{f}, nil
}

// flannelRules are the rules that flannel's own package makes: masquerading of what leaves the pod network, and forwarding within it.
func flannelRules(o options, config *subnet.Config, network backend.Network) *ruleset {
	r := &ruleset{set: func(ctx context.Context) error { return setRules(ctx, o, config, network) }}
	for _, f := range []struct {
		enabled bool
		family  byte
		table   string
	}{{!config.Network.Empty(), unix.NFPROTO_IPV4, "flannel-ipv4"}, {!config.IPv6Network.Empty(), unix.NFPROTO_IPV6, "flannel-ipv6"}} {
		if f.enabled && o.ipMasq {
			r.chains = append(r.chains, chain{f.family, f.table, "postrtg"})
		}
		if f.enabled && o.forward {
			r.chains = append(r.chains, chain{f.family, f.table, "forward"})
		}
	}
	return r
}

func setRules(ctx context.Context, o options, config *subnet.Config, network backend.Network) error {
	rules := &nft.NFTablesManager{}
	if err := rules.Init(ctx); err != nil {
		return err
	}
	if o.ipMasq {
		// The rules replace their whole chain each time, so the previous subnet and network do not matter to them.
		err := rules.SetupAndEnsureMasqRules(ctx, config.Network, ip.IP4Net{}, ip.IP4Net{},
			config.IPv6Network, ip.IP6Net{}, ip.IP6Net{}, network.Lease(), 0, o.noRandomPorts)
		if err != nil {
			return fmt.Errorf("set up masquerading: %w", err)
		}
	}
	if o.forward {
		// It logs its errors and returns none: that the chain has rules is the proof.
		rules.SetupAndEnsureForwardRules(ctx, config.Network, config.IPv6Network, 0)
	}
	return nil
}
