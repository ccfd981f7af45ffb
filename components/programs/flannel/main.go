// Command flanneld is flannel's daemon for Kubernetes, made of flannel's own packages.
//
// It differs from upstream's main package in what it leaves out: subnets kept in etcd, iptables
// rules, and the backends of single clouds, one of which needs a module that not every proxy serves.
// The flags that remain have upstream's names, meanings and defaults, so its manifest works unchanged
// with "EnableNFTables": true in net-conf.json.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/flannel-io/flannel/pkg/backend"
	_ "github.com/flannel-io/flannel/pkg/backend/hostgw"
	_ "github.com/flannel-io/flannel/pkg/backend/vxlan"
	_ "github.com/flannel-io/flannel/pkg/backend/wireguard"
	"github.com/flannel-io/flannel/pkg/ipmatch"
	"github.com/flannel-io/flannel/pkg/lease"
	"github.com/flannel-io/flannel/pkg/subnet"
	"github.com/flannel-io/flannel/pkg/subnet/kube"
	"github.com/flannel-io/flannel/pkg/version"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"components.quorate.dev/flannel/health"
)

type options struct {
	ifaces, ifaceRegexes            list
	ifaceCanReach                   string
	publicIP, publicIPv6            string
	apiURL, kubeconfig, annotations string
	netConf, subnetFile             string
	cniSource, cniConfig            string
	ipMasq, noRandomPorts, forward  bool
	setNetworkUnavailable           bool
	policies                        bool
	healthFile                      string
	healthzIP                       string
	healthzPort                     int
}

type list []string

func (l *list) String() string       { return fmt.Sprint([]string(*l)) }
func (l *list) Set(arg string) error { *l = append(*l, arg); return nil }

func main() {
	klog.InitFlags(nil)
	o := options{}
	flag.Var(&o.ifaces, "iface", "interface (name or address) for traffic between hosts; may be repeated, the first that matches is used")
	flag.Var(&o.ifaceRegexes, "iface-regex", "regular expression for the interface, tried after -iface; may be repeated")
	flag.StringVar(&o.ifaceCanReach, "iface-can-reach", "", "use the interface of the route to this address")
	flag.StringVar(&o.publicIP, "public-ip", "", "address at which other nodes reach this one")
	flag.StringVar(&o.publicIPv6, "public-ipv6", "", "IPv6 address at which other nodes reach this one")
	flag.StringVar(&o.apiURL, "kube-api-url", "", "URL of the API server; not needed in a pod")
	flag.StringVar(&o.kubeconfig, "kubeconfig-file", "", "kubeconfig; not needed in a pod")
	flag.StringVar(&o.annotations, "kube-annotation-prefix", "flannel.alpha.coreos.com", "prefix of the node annotations")
	flag.StringVar(&o.netConf, "net-config-path", "/etc/kube-flannel/net-conf.json", "network configuration")
	flag.StringVar(&o.subnetFile, "subnet-file", "/run/flannel/subnet.env", "where to write this node's subnet for the CNI plugin")
	flag.StringVar(&o.cniSource, "cni-config-source", "", "CNI configuration to install when this node's network is ready (default: none)")
	flag.StringVar(&o.cniConfig, "cni-config", "/etc/cni/net.d/10-flannel.conflist", "where to install it")
	flag.BoolVar(&o.ipMasq, "ip-masq", false, "masquerade traffic that leaves the pod network")
	flag.BoolVar(&o.noRandomPorts, "ip-masq-fully-random-disable", false, "masquerade without fully random ports")
	flag.BoolVar(&o.forward, "iptables-forward-rules", true, "accept forwarded traffic of the pod network (with nftables)")
	flag.BoolVar(&o.setNetworkUnavailable, "set-node-network-unavailable", true, "clear the node's NetworkUnavailable condition when ready")
	flag.BoolVar(&o.policies, "network-policies", false, "enforce network policies")
	flag.StringVar(&o.healthFile, "health-file", health.File, "where to report what was wrong with this node's pod network, as JSON")
	flag.StringVar(&o.healthzIP, "healthz-ip", "0.0.0.0", "address of /healthz and /readyz")
	flag.IntVar(&o.healthzPort, "healthz-port", 0, "port of /healthz and /readyz (0: none)")
	kubeSubnets := flag.Bool("kube-subnet-mgr", true, "take subnets from the Kubernetes API; the only manager in this build")
	showVersion := flag.Bool("version", false, "print the version and exit")
	flag.Parse()

	if *showVersion {
		fmt.Fprintln(os.Stderr, version.Version)
		return
	}
	if !*kubeSubnets {
		klog.Exit("this flanneld has no etcd subnet manager: leave out -kube-subnet-mgr=false")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		klog.Exit(err)
	}
	klog.Info("Exiting cleanly...")
}

// run serves until ctx ends. What it starts in the background stops with ctx and is waited for.
func run(ctx context.Context, o options) error {
	ctx, cancel := context.WithCancel(ctx)
	var background sync.WaitGroup
	defer background.Wait()
	defer cancel()
	failures := make(chan error, 1)
	fail := func(err error) {
		select {
		case failures <- err:
		default: // one is enough to end
		}
	}

	subnets, err := kube.NewSubnetManager(ctx, o.apiURL, o.kubeconfig, o.annotations, o.netConf, o.setNetworkUnavailable)
	switch {
	case errors.Is(err, context.DeadlineExceeded) && subnets != nil && os.Getenv("CONT_WHEN_CACHE_NOT_READY") == "true":
		klog.Error("Timed out waiting for node controller sync. Continuing anyway.")
	case err != nil:
		return fmt.Errorf("create the subnet manager: %w", err)
	}

	var ready atomic.Bool
	if o.healthzPort > 0 {
		if err := serveHealth(ctx, &background, net.JoinHostPort(o.healthzIP, strconv.Itoa(o.healthzPort)), &ready); err != nil {
			return err
		}
	}

	config, err := networkConfig(ctx, subnets)
	if err != nil {
		return err
	}
	iface, err := externalInterface(ctx, o, config, subnets)
	if err != nil {
		return err
	}
	leases := &leaseBook{Manager: subnets}
	be, err := backend.NewManager(ctx, leases, iface).GetBackend(config.BackendType)
	if err != nil {
		return fmt.Errorf("set up backend %q: %w", config.BackendType, err)
	}
	network, err := be.RegisterNetwork(ctx, &background, config)
	if err != nil {
		return fmt.Errorf("register this node's network: %w", err)
	}
	rules := flannelRules(o, config, network)
	if err := rules.apply(ctx); err != nil {
		return err
	}
	background.Go(func() { network.Run(ctx) })
	own := network.Lease()
	overlays, err := overlaysOf(config, own, leases)
	if err != nil {
		return err
	}
	keep := newKeeper(o, config, own, overlays)
	keep.add(rules.compare)
	background.Go(func() { keep.run(ctx) })
	if err := prepareForPods(ctx, o, config, overlays, network.MTU(), keep, &background, fail); err != nil {
		return err
	}
	if err := writeFiles(o, config, own, network.MTU(), subnets, keep); err != nil {
		return err
	}
	ready.Store(true)

	completeLease(ctx, subnets, own, &background)
	select {
	case <-ctx.Done():
		return nil
	case err := <-failures:
		return err
	}
}

// prepareForPods returns when pods may start here: when their network policies are known, and traffic to other nodes was
// tried since the machine started. The subnet file is what tells the latter, because it does not outlive a reboot.
func prepareForPods(ctx context.Context, o options, config *subnet.Config, overlays []*overlay, mtu int, keep *keeper, background *sync.WaitGroup, fail func(error)) error {
	rest, err := clientcmd.BuildConfigFromFlags(o.apiURL, o.kubeconfig)
	if err != nil {
		return fmt.Errorf("reach the API: %w", err)
	}
	client, err := kubernetes.NewForConfig(rest)
	if err != nil {
		return fmt.Errorf("reach the API: %w", err)
	}
	node := os.Getenv("NODE_NAME")
	if node == "" {
		// Upstream's manifest does not name it.
		pod, err := client.CoreV1().Pods(os.Getenv("POD_NAMESPACE")).Get(ctx, os.Getenv("POD_NAME"), metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("determine this node's name: %w", err)
		}
		node = pod.Spec.NodeName
	}
	if o.policies {
		if err := enforcePolicies(ctx, client, node, familiesOf(config), keep, background, fail); err != nil {
			return err
		}
	}
	if _, err := os.Stat(o.subnetFile); err == nil {
		return nil
	}
	for _, overlay := range overlays {
		t, err := overlay.trial(mtu)
		if err != nil {
			return err
		}
		t.nodes, t.node, t.prefix = client.CoreV1().Nodes(), node, o.annotations
		if err := t.run(ctx); err != nil {
			return err
		}
	}
	return nil
}

// overlaysOf are one for each family, if the backend is VXLAN.
func overlaysOf(config *subnet.Config, own *lease.Lease, leases *leaseBook) (out []*overlay, err error) {
	if config.BackendType != "vxlan" {
		return nil, nil
	}
	for _, f := range familiesOf(config) {
		o, err := newOverlay(f, config, *own, leases)
		if err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	return out, nil
}

// newKeeper makes the keeper of this node's network, without the rules.
func newKeeper(o options, config *subnet.Config, own *lease.Lease, overlays []*overlay) *keeper {
	var networks, subnets, interfaces []string
	for _, f := range familiesOf(config) {
		if f == ipv6Family {
			networks, subnets = append(networks, config.IPv6Network.String()), append(subnets, own.IPv6Subnet.String())
		} else {
			networks, subnets = append(networks, config.Network.String()), append(subnets, own.Subnet.String())
		}
	}
	k := &keeper{resync: resync, pause: pause, file: o.healthFile}
	for _, o := range overlays {
		interfaces = append(interfaces, o.name)
		k.add(o.compare)
	}
	k.report = health.Report{
		Version: version.Version, Network: strings.Join(networks, ","), Subnet: strings.Join(subnets, ","), Backend: config.BackendType,
		Interface: strings.Join(interfaces, ","), Started: time.Now(), ResyncSeconds: int(resync.Seconds()), Problems: []health.Problem{},
	}
	k.watch = watched{tables: []string{"flannel-ipv4", "flannel-ipv6", controllerTable, xtablesTable}, overlays: overlays}.watch
	return k
}

// writeFiles tells the CNI plugin of this node's subnet and the runtime of the CNI configuration: no sooner than pods can
// have addresses.
func writeFiles(o options, config *subnet.Config, own *lease.Lease, mtu int, subnets subnet.Manager, keep *keeper) error {
	writeSubnet := func() error {
		if err := subnets.HandleSubnetFile(o.subnetFile, config, o.ipMasq, own.Subnet, own.IPv6Subnet, mtu); err != nil {
			return fmt.Errorf("write %s: %w", o.subnetFile, err)
		}
		klog.Infof("Wrote subnet file to %s", o.subnetFile)
		return nil
	}
	if err := writeSubnet(); err != nil {
		return err
	}
	keep.add(missingFile(o.subnetFile, writeSubnet))
	if o.cniSource == "" {
		return nil
	}
	if err := installCNIConfig(o); err != nil {
		return err
	}
	keep.add(missingFile(o.cniConfig, func() error { return installCNIConfig(o) }))
	return nil
}

// installCNIConfig replaces the file in one step: the runtime reads it as soon as it appears.
func installCNIConfig(o options) error {
	want, err := os.ReadFile(o.cniSource)
	if err != nil {
		return fmt.Errorf("read the CNI configuration: %w", err)
	}
	if have, err := os.ReadFile(o.cniConfig); err == nil && bytes.Equal(have, want) {
		return nil
	}
	tmp := filepath.Join(filepath.Dir(o.cniConfig), ".flanneld-new") // without an ending that a runtime reads
	if err := os.WriteFile(tmp, want, 0o600); err != nil {
		return fmt.Errorf("install the CNI configuration: %w", err)
	}
	if err := os.Rename(tmp, o.cniConfig); err != nil {
		return fmt.Errorf("install the CNI configuration: %w", err)
	}
	klog.Infof("Installed the CNI configuration as %s", o.cniConfig)
	return nil
}

// completeLease reports the node's network as available. A request that fails, as when the API moves to another host,
// is repeated: the network itself works by now, and giving up would only restart it.
func completeLease(ctx context.Context, subnets subnet.Manager, l *lease.Lease, background *sync.WaitGroup) {
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		err := subnets.CompleteLease(ctx, l, background)
		if err == nil || ctx.Err() != nil {
			return
		}
		klog.Errorf("keep the lease of %s: %v; trying again in %s", l.Subnet, err, wait)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// networkConfig refuses iptables mode: this build, and the image it runs in, have only nft.
func networkConfig(ctx context.Context, subnets subnet.Manager) (*subnet.Config, error) {
	config, err := subnets.GetNetworkConfig(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the network configuration: %w", err)
	}
	if !config.EnableNFTables {
		return nil, errors.New(`this flanneld supports only nftables rules: set "EnableNFTables": true in net-conf.json`)
	}
	return config, nil
}

// externalInterface finds the interface that carries the pods' traffic between nodes. A public
// address stored on the node object wins over the flag, as upstream has it.
func externalInterface(ctx context.Context, o options, config *subnet.Config, subnets subnet.Manager) (*backend.ExternalInterface, error) {
	stack, err := ipmatch.GetIPFamily(config.EnableIPv4, config.EnableIPv6)
	if err != nil {
		return nil, err
	}
	stored4, stored6 := subnets.GetStoredPublicIP(ctx)
	public := ipmatch.PublicIPOpts{PublicIP: first(stored4, o.publicIP), PublicIPv6: first(stored6, o.publicIPv6)}

	if len(o.ifaces) == 0 && len(o.ifaceRegexes) == 0 && o.ifaceCanReach == "" {
		found, err := ipmatch.LookupExtIface(first(public.PublicIP, public.PublicIPv6), "", "", stack, public)
		if err != nil {
			return nil, fmt.Errorf("find the interface for traffic between hosts: %w", err)
		}
		return found, nil
	}
	var failures []error
	try := func(name, regex, canReach string) *backend.ExternalInterface {
		found, err := ipmatch.LookupExtIface(name, regex, canReach, stack, public)
		if err != nil {
			failures = append(failures, err)
			return nil
		}
		return found
	}
	for _, name := range o.ifaces {
		if found := try(name, "", ""); found != nil {
			return found, nil
		}
	}
	for _, regex := range o.ifaceRegexes {
		if found := try("", regex, ""); found != nil {
			return found, nil
		}
	}
	if o.ifaceCanReach != "" {
		if found := try("", "", o.ifaceCanReach); found != nil {
			return found, nil
		}
	}
	return nil, fmt.Errorf("no interface matches -iface %v, -iface-regex %v, -iface-can-reach %q: %w",
		o.ifaces, o.ifaceRegexes, o.ifaceCanReach, errors.Join(failures...))
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

func serveHealth(ctx context.Context, background *sync.WaitGroup, address string, ready *atomic.Bool) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("serve /healthz: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "flanneld is running") })
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !ready.Load() {
			http.Error(w, "flanneld is not ready yet", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprint(w, "flanneld is ready")
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	background.Go(func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			klog.Errorf("serve /healthz: %v", err)
		}
	})
	background.Go(func() {
		<-ctx.Done()
		bounded, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		_ = server.Shutdown(bounded)
	})
	return nil
}
