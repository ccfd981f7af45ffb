package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
)

// recorder stands in for the delegate and keeps what it was called with.
type recorder struct {
	plugin, verb string
	stdin        map[string]any
	fail         error
}

func (r *recorder) ExecPlugin(_ context.Context, plugin string, stdin []byte, environ []string) ([]byte, error) {
	r.plugin = plugin
	for _, e := range environ {
		if verb, ok := strings.CutPrefix(e, "CNI_COMMAND="); ok {
			r.verb = verb
		}
	}
	r.stdin = nil
	if err := json.Unmarshal(stdin, &r.stdin); err != nil {
		return nil, err
	}
	return []byte(`{"cniVersion":"1.0.0","ips":[{"address":"10.244.3.2/24"}]}`), r.fail
}

func (r *recorder) FindInPath(plugin string, _ []string) (string, error) { return plugin, nil }
func (r *recorder) Decode([]byte) (version.PluginInfo, error)            { return version.All, nil }

const dualStack = `FLANNEL_NETWORK=10.244.0.0/16,10.245.0.0/16
FLANNEL_SUBNET=10.244.3.1/24
FLANNEL_IPV6_NETWORK=fd00::/48
FLANNEL_IPV6_SUBNET=fd00:0:0:3::1/64
FLANNEL_MTU=1450
FLANNEL_IPMASQ=true
`

const singleStack = "FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.3.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"

// node is one machine: its subnet file, its records, and the calls of its runtime.
type node struct {
	t        *testing.T
	dir      string
	delegate *recorder
}

func newNode(t *testing.T, subnetEnv string) *node {
	n := &node{t: t, dir: t.TempDir(), delegate: &recorder{}}
	if subnetEnv != "" {
		n.write(subnetEnv)
	}
	t.Setenv("CNI_PATH", n.dir)
	stdout := os.Stdout
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	os.Stdout = null // add prints its result there
	t.Cleanup(func() { os.Stdout = stdout; null.Close() })
	return n
}

func (n *node) write(subnetEnv string) {
	n.t.Helper()
	if err := os.WriteFile(filepath.Join(n.dir, "subnet.env"), []byte(subnetEnv), 0o600); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) args(extra string) *skel.CmdArgs {
	conf := `{"name":"cbr0","cniVersion":"1.0.0","type":"flannel","subnetFile":"` + n.dir + `/subnet.env","dataDir":"` + n.dir + `/data"` + extra + `}`
	return &skel.CmdArgs{ContainerID: "c1", IfName: "eth0", StdinData: []byte(conf)}
}

func (n *node) records() []string {
	names, err := filepath.Glob(n.dir + "/data/cbr0/*")
	if err != nil {
		n.t.Fatal(err)
	}
	for i := range names {
		names[i] = filepath.Base(names[i])
	}
	return names
}

func decode(t *testing.T, text string) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestAddDelegates(t *testing.T) {
	for name, c := range map[string]struct{ env, conf, want string }{
		"defaults": {singleStack, ``, `{
			"name":"cbr0","cniVersion":"1.0.0","type":"bridge","mtu":1450,"ipMasq":true,"isGateway":true,
			"ipam":{"type":"host-local","ranges":[[{"subnet":"10.244.3.0/24"}]],"routes":[{"dst":"10.244.0.0/16"}]}}`},
		"flanneld masquerades, two families, two networks": {dualStack, `,"delegate":{"hairpinMode":true,"isDefaultGateway":true}`, `{
			"name":"cbr0","cniVersion":"1.0.0","type":"bridge","mtu":1450,"ipMasq":false,"isGateway":true,"hairpinMode":true,"isDefaultGateway":true,
			"ipam":{"type":"host-local","ranges":[[{"subnet":"10.244.3.0/24"}],[{"subnet":"fd00:0:0:3::/64"}]],
				"routes":[{"dst":"10.244.0.0/16"},{"dst":"10.245.0.0/16"},{"dst":"fd00::/48"}]}}`},
		"what the user sets stays": {singleStack, `,"delegate":{"type":"ptp","mtu":1400,"ipMasq":false},"ipam":{"dataDir":"/x","routes":[{"dst":"0.0.0.0/0"}]},"runtimeConfig":{"mac":"0a:00"}`, `{
			"name":"cbr0","cniVersion":"1.0.0","type":"ptp","mtu":1400,"ipMasq":false,"runtimeConfig":{"mac":"0a:00"},
			"ipam":{"type":"host-local","dataDir":"/x","ranges":[[{"subnet":"10.244.3.0/24"}]],"routes":[{"dst":"0.0.0.0/0"},{"dst":"10.244.0.0/16"}]}}`},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, c.env)
			if err := add(n.args(c.conf), n.delegate); err != nil {
				t.Fatal(err)
			}
			if want := decode(t, c.want); !reflect.DeepEqual(n.delegate.stdin, want) {
				t.Errorf("delegate got  %v\nwant          %v", n.delegate.stdin, want)
			}
			if want := decode(t, c.want)["type"]; n.delegate.plugin != want || n.delegate.verb != "ADD" {
				t.Errorf("called %s %s, want %v ADD", n.delegate.plugin, n.delegate.verb, want)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		env, conf, want string
		code            uint
	}{
		"no flanneld yet":      {"", ``, "flanneld is not ready", types.ErrTryAgainLater},
		"delegate with a name": {singleStack, `,"delegate":{"name":"x"}`, "must not have its own name", types.ErrInvalidNetworkConfig},
		"type is no string":    {singleStack, `,"delegate":{"type":3}`, "must be a string", types.ErrInvalidNetworkConfig},
		"routes are no list":   {singleStack, `,"ipam":{"routes":3}`, "must be a list", types.ErrInvalidNetworkConfig},
		"no MTU":               {"FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.3.1/24\nFLANNEL_IPMASQ=true\n", ``, "FLANNEL_MTU is missing", 0},
		"no subnet":            {"FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n", ``, "needs a network and a subnet", 0},
		"half a line":          {singleStack + "FLANNEL_IPV6_SUBNET=fd0", ``, "subnet.env:5: FLANNEL_IPV6_SUBNET", 0},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, c.env)
			err := add(n.args(c.conf), n.delegate)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want an error with %q", err, c.want)
			}
			var coded *types.Error
			if c.code != 0 && (!errors.As(err, &coded) || coded.Code != c.code) {
				t.Errorf("got %#v, want code %d", err, c.code)
			}
			if n.delegate.verb != "" {
				t.Error("the delegate was called all the same")
			}
		})
	}
}

func TestDeleteUsesWhatAddUsed(t *testing.T) {
	n := newNode(t, singleStack)
	if err := add(n.args(`,"delegate":{"hairpinMode":true}`), n.delegate); err != nil {
		t.Fatal(err)
	}
	// After a reboot flanneld may have another subnet.
	n.write(strings.ReplaceAll(singleStack, "10.244.3.1", "10.244.9.1"))
	if err := check(n.args(`,"prevResult":{"cniVersion":"1.0.0"}`), n.delegate); err != nil {
		t.Fatal(err)
	}
	if n.delegate.verb != "CHECK" || n.delegate.stdin["prevResult"] == nil {
		t.Errorf("CHECK passed %s %v", n.delegate.verb, n.delegate.stdin)
	}

	n.delegate.fail = io.ErrUnexpectedEOF
	if err := del(n.args(``), n.delegate); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("the delegate's failure was lost: %v", err)
	}
	n.delegate.fail = nil
	if err := del(n.args(``), n.delegate); err != nil {
		t.Fatal(err)
	}
	ipam := n.delegate.stdin["ipam"].(map[string]any)
	want := []any{[]any{map[string]any{"subnet": "10.244.3.0/24"}}}
	if n.delegate.verb != "DEL" || !reflect.DeepEqual(ipam["ranges"], want) {
		t.Errorf("DEL passed %s %v", n.delegate.verb, n.delegate.stdin)
	}
	if left := n.records(); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}

	n.delegate.verb = ""
	if err := del(n.args(``), n.delegate); err != nil || n.delegate.verb != "" {
		t.Errorf("a second DEL: %v, called %q", err, n.delegate.verb)
	}
	var coded *types.Error
	if err := check(n.args(``), n.delegate); !errors.As(err, &coded) || coded.Code != types.ErrUnknownContainer {
		t.Errorf("CHECK of an unknown container: %v", err)
	}
}

// TestDeleteAfterAPowerCut: a record that was not on the disk yet is an empty file. Its container must be deletable.
func TestDeleteAfterAPowerCut(t *testing.T) {
	for _, left := range []string{"", "\x00\x00", "{}"} {
		n := newNode(t, singleStack)
		args := n.args(``)
		if err := add(args, n.delegate); err != nil {
			t.Fatal(err)
		}
		conf, err := parse(args.StdinData)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(string(conf.record(args)), []byte(left), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := del(args, n.delegate); err != nil || n.delegate.verb != "DEL" || n.delegate.plugin != "bridge" || len(n.records()) != 0 {
			t.Errorf("%q: %v, called %s %s, records %v", left, err, n.delegate.plugin, n.delegate.verb, n.records())
		}
	}
}

func TestGCForgetsWhatIsGone(t *testing.T) {
	n := newNode(t, singleStack)
	for _, id := range []string{"c1", "c2"} {
		args := n.args(``)
		args.ContainerID = id
		if err := add(args, n.delegate); err != nil {
			t.Fatal(err)
		}
	}
	if err := gc(n.args(``), n.delegate); err == nil || len(n.records()) != 2 {
		t.Fatalf("GC without a list: %v, records %v", err, n.records())
	}
	if err := gc(n.args(`,"cni.dev/valid-attachments":[{"containerID":"c2","ifname":"eth0"}]`), n.delegate); err != nil {
		t.Fatal(err)
	}
	if left := n.records(); !reflect.DeepEqual(left, []string{"c2-eth0"}) {
		t.Errorf("records: %v", left)
	}
	if n.delegate.verb != "GC" || n.delegate.stdin["cni.dev/valid-attachments"] == nil {
		t.Errorf("delegate got %s %v", n.delegate.verb, n.delegate.stdin)
	}
}

func TestStatusFollowsFlanneld(t *testing.T) {
	n := newNode(t, "")
	var coded *types.Error
	if err := status(n.args(``), n.delegate); !errors.As(err, &coded) || coded.Code != errPluginNotAvailable {
		t.Fatalf("without subnet.env: %v", err)
	}
	n.write(singleStack)
	if err := status(n.args(``), n.delegate); err != nil || n.delegate.verb != "STATUS" {
		t.Errorf("with subnet.env: %v, called %q", err, n.delegate.verb)
	}
}
