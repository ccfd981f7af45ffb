package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/informers"
	networkinginformers "k8s.io/client-go/informers/networking/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"sigs.k8s.io/kube-network-policies/pkg/networkpolicy"

	"components.quorate.dev/flannel/health"
)

// packetQueue is where the kernel hands the first packet of each connection that a policy may concern.
const packetQueue = 100

// enforcePolicies has network policies judged by kube-network-policies, the component of Kubernetes' network group. A
// cluster without policies pays for one watch: pods and namespaces are followed from the first policy on. Where policies
// exist already it returns when they are known, so that no pod of this node starts before them. It fails through fail.
func enforcePolicies(ctx context.Context, client kubernetes.Interface, node string, families []ipFamily, keep *keeper, background *sync.WaitGroup, fail func(error)) error {
	factory := informers.NewSharedInformerFactory(client, 0)
	policies := factory.Networking().V1().NetworkPolicies().Informer()
	var (
		once  sync.Once
		first = make(chan struct{})
	)
	if _, err := policies.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: func(any) { once.Do(func() { close(first) }) }}); err != nil {
		return fmt.Errorf("watch network policies: %w", err)
	}
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), policies.HasSynced) {
		return ctx.Err()
	}
	enforce := func() error { return startController(ctx, client, factory, node, families, keep, background, fail) }
	if len(policies.GetStore().ListKeys()) > 0 {
		return enforce()
	}
	background.Go(func() {
		select {
		case <-ctx.Done():
		case <-first:
			if err := enforce(); err != nil && ctx.Err() == nil {
				fail(err)
			}
		}
	})
	return nil
}

func startController(ctx context.Context, client kubernetes.Interface, factory informers.SharedInformerFactory, node string, families []ipFamily, keep *keeper, background *sync.WaitGroup, fail func(error)) error {
	klog.Info("There are network policies: enforcing them")
	policies, pods := &recordedInformer{NetworkPolicyInformer: factory.Networking().V1().NetworkPolicies()}, factory.Core().V1().Pods()
	controller, err := networkpolicy.NewController(client, policies, factory.Core().V1().Namespaces(), pods, nil, nil, nil, nil,
		networkpolicy.Config{NodeName: node, QueueID: packetQueue, NetfilterBug1766Fix: true, NFTableName: controllerTable})
	if err != nil {
		return fmt.Errorf("enforce network policies: %w", err)
	}
	selected := selection{node: node, policies: policies.Informer().GetStore(), pods: pods.Informer().GetStore()}
	var own *xtables
	if err := canQueue(); err != nil {
		klog.Infof("This kernel has no nftables expression to queue packets (%v): queueing them with the xtables target instead", err)
		own = &xtables{selection: selected, families: families, changed: make(chan struct{}, 1)}
		own.write = own.apply
		for _, i := range []cache.SharedIndexInformer{policies.Informer(), pods.Informer()} {
			if _, err := i.AddEventHandler(own.handler()); err != nil {
				return fmt.Errorf("enforce network policies: %w", err)
			}
		}
	}
	factory.Start(ctx.Done())
	background.Go(func() {
		if err := controller.Run(ctx); err != nil && ctx.Err() == nil {
			fail(fmt.Errorf("enforce network policies: %w", err))
		}
	})
	factory.WaitForCacheSync(ctx.Done())
	if own == nil {
		keep.add(controllerRules(selected, policies))
		return ctx.Err()
	}
	keep.add(own.compare)
	// A kernel that never takes the rules has to be noticed: here, where none of ours are in force yet, flanneld ends.
	if err := insist(ctx, own.sync); err != nil {
		return err
	}
	background.Go(func() {
		if err := own.run(ctx); err != nil {
			fail(err)
		}
	})
	return ctx.Err()
}

// recordedInformer knows the handlers that were added to it, so that they can be called.
type recordedInformer struct {
	networkinginformers.NetworkPolicyInformer
	handlers []cache.ResourceEventHandler
}

func (r *recordedInformer) Informer() cache.SharedIndexInformer {
	return recordingInformer{r.NetworkPolicyInformer.Informer(), r}
}

type recordingInformer struct {
	cache.SharedIndexInformer
	to *recordedInformer
}

func (i recordingInformer) AddEventHandler(h cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error) {
	i.to.handlers = append(i.to.handlers, h)
	return i.SharedIndexInformer.AddEventHandler(h)
}

// renew has the controller write its rules again: it does so when a policy changes that selects pods of this node, and has no
// other way to be asked.
func (r *recordedInformer) renew() {
	for _, policy := range r.NetworkPolicyInformer.Informer().GetStore().List() {
		for _, h := range r.handlers {
			h.OnUpdate(policy, policy)
		}
	}
}

// controllerRules is the part with the controller's own rules. They matter while a policy selects pods of this node.
func controllerRules(selected selection, policies *recordedInformer) part {
	c := chain{unix.NFPROTO_INET, controllerTable, "postrouting"}
	var (
		begun = time.Now()
		want  string // the rules do not change
	)
	return func(context.Context) ([]fault, error) {
		content, err := c.content()
		if err != nil {
			return nil, err
		}
		if want == "" {
			want = content
		}
		if len(selected.addresses()) == 0 || content == want && want != "" || want == "" && time.Since(begun) < settling {
			return nil, nil
		}
		what := c.String() + ": changed"
		if content == "" {
			what = c.String() + ": missing"
		}
		return []fault{{health.Rules, []string{what}, func(ctx context.Context) error {
			policies.renew()
			return insist(ctx, func() error {
				if content, err := c.content(); err != nil || content == "" {
					return errors.Join(err, fmt.Errorf("the %s is still missing", c))
				}
				return nil
			})
		}}}, nil
	}
}

// canQueue tries whether nftables itself can hand packets to a program.
func canQueue() error {
	nft, err := nftables.New()
	if err != nil {
		return err
	}
	table := nft.AddTable(&nftables.Table{Name: "flanneld-try-queue", Family: nftables.TableFamilyINet})
	chain := nft.AddChain(&nftables.Chain{Name: "try", Table: table})
	nft.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Queue{Num: packetQueue}}})
	nft.DelTable(table) // one transaction: it is never seen
	return nft.Flush()
}

// selection finds the pods of a node that policies select.
type selection struct {
	node           string
	policies, pods cache.Store
}

// xtables queues packets on kernels that have only the older target for it. The judgment is the controller's all the same: its
// own rules, which such a kernel refuses, differ in nothing else.
type xtables struct {
	selection
	families []ipFamily // each has a table: the target is not available in tables for both
	changed  chan struct{}
	write    func(addresses []netip.Addr, remove bool) error // apply

	mu      sync.Mutex
	written bool             // whether the tables exist, with these:
	have    []netip.Addr     // addresses
	want    map[chain]string // contents of their chains
	refused bool             // whether the kernel did not take the first ones
}

// The tables of nftables in which packets are queued.
const (
	controllerTable = "kube-network-policies"
	xtablesTable    = "kube-network-policies-xt"
	xtablesSet      = "podips"
)

func (f ipFamily) xtablesChain() chain { return chain{byte(f.netlink), xtablesTable, "postrouting"} }

func (f ipFamily) xtablesTable() *nftables.Table {
	return &nftables.Table{Name: xtablesTable, Family: nftables.TableFamily(f.netlink)}
}

// only are the addresses of the family.
func (f ipFamily) only(addresses []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(addresses), func(a netip.Addr) bool { return !f.of(a) })
}

// Netlink fails for a moment when its buffers are full, or when another program changes tables at the same time.
const (
	again    = time.Second      // until the kernel is asked again
	insisted = 10 * time.Second // where somebody waits for the outcome
)

func insist(ctx context.Context, f func() error) error {
	var last error
	err := wait.PollUntilContextTimeout(ctx, again, insisted, true, func(context.Context) (bool, error) {
		if last = f(); last != nil {
			klog.Error(last)
		}
		return last == nil, nil
	})
	if err != nil && last != nil {
		return last
	}
	return err
}

// concerns reports whether the rules may depend on an object: on every policy, and on the pods of this node, which are few of
// the cluster's.
func (s selection) concerns(o any) bool {
	if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = gone.Obj
	}
	pod, ok := o.(*corev1.Pod)
	return !ok || pod.Spec.NodeName == s.node
}

func (x *xtables) handler() cache.ResourceEventHandler {
	note := func(objects ...any) {
		if !slices.ContainsFunc(objects, x.concerns) {
			return
		}
		select {
		case x.changed <- struct{}{}:
		default: // somebody looks soon
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { note(o) }, UpdateFunc: func(before, after any) { note(before, after) }, DeleteFunc: func(o any) { note(o) },
	}
}

// run does not end because the kernel refuses a change: the rules that are there would stay, and without a program at the queue
// they drop every new connection.
func (x *xtables) run(ctx context.Context) error {
	var retry <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return x.remove(context.WithoutCancel(ctx))
		case <-x.changed:
		case <-retry:
		}
		retry = nil
		if err := x.sync(); err != nil {
			klog.Error(err)
			retry = time.After(again)
		}
	}
}

// sync writes the tables if their content changes: most changes of pods concern neither addresses nor labels.
func (x *xtables) sync() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	want := x.addresses()
	if x.written && slices.Equal(want, x.have) {
		return nil
	}
	if err := x.write(want, false); err != nil {
		x.refused = !x.written
		return err
	}
	x.written, x.have, x.refused = true, want, false
	return nil
}

func (x *xtables) remove(ctx context.Context) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.written, x.refused = false, false // from now on, nobody restores it
	return insist(ctx, func() error { return x.write(nil, true) })
}

// compare is a part.
func (x *xtables) compare(context.Context) ([]fault, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.refused {
		return []fault{{health.Rules, []string{"network policies: not enforced"}, func(context.Context) error { return x.sync() }}}, nil
	}
	if !x.written {
		return nil, nil
	}
	var all []string
	for _, f := range x.families {
		what, err := x.wrong(f)
		if err != nil {
			return nil, err
		}
		if what != "" {
			all = append(all, what)
		}
	}
	if all == nil {
		return nil, nil
	}
	return []fault{{health.Rules, all, func(context.Context) error {
		x.mu.Lock()
		defer x.mu.Unlock()
		if !x.written {
			return nil
		}
		return x.write(x.have, false)
	}}}, nil
}

// wrong says what differs in a family's table.
func (x *xtables) wrong(f ipFamily) (string, error) {
	c := f.xtablesChain()
	content, err := c.content()
	switch {
	case err != nil:
		return "", err
	case content == "":
		return c.String() + ": missing", nil
	case content != x.want[c]:
		return c.String() + ": changed", nil
	}
	set := fmt.Sprintf("set %s of table %s %s", xtablesSet, c.familyName(), xtablesTable)
	nft, err := nftables.New()
	if err != nil {
		return "", fmt.Errorf("read the %s: %w", set, err)
	}
	elements, err := nft.GetSetElements(&nftables.Set{Name: xtablesSet, Table: f.xtablesTable()})
	if err != nil {
		return "", fmt.Errorf("read the %s: %w", set, err)
	}
	var have []netip.Addr
	for _, e := range elements {
		if a, ok := netip.AddrFromSlice(e.Key); ok {
			have = append(have, a)
		}
	}
	slices.SortFunc(have, netip.Addr.Compare)
	if !slices.Equal(have, f.only(x.have)) {
		return set + ": changed", nil
	}
	return "", nil
}

// addresses are those of this node's pods that some policy selects.
func (s selection) addresses() (out []netip.Addr) {
	for _, o := range s.pods.List() {
		pod := o.(*corev1.Pod)
		if pod.Spec.NodeName != s.node || pod.Spec.HostNetwork || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		selected := slices.ContainsFunc(s.policies.List(), func(o any) bool {
			policy := o.(*networkingv1.NetworkPolicy)
			selector, err := metav1.LabelSelectorAsSelector(&policy.Spec.PodSelector)
			return err == nil && policy.Namespace == pod.Namespace && selector.Matches(labels.Set(pod.Labels))
		})
		for _, ip := range pod.Status.PodIPs {
			if a, err := netip.ParseAddr(ip.IP); selected && err == nil {
				out = append(out, a.Unmap())
			}
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// apply replaces the tables of all families in one step, or removes them.
func (x *xtables) apply(addresses []netip.Addr, remove bool) error {
	nft, err := nftables.New()
	if err != nil {
		return fmt.Errorf("queue packets for network policies: %w", err)
	}
	for _, f := range x.families {
		table := nft.AddTable(f.xtablesTable())
		nft.DelTable(table)
		if !remove {
			if err := f.rules(nft, table, f.only(addresses)); err != nil {
				return fmt.Errorf("queue packets for network policies: %w", err)
			}
		}
	}
	if err := nft.Flush(); err != nil {
		return fmt.Errorf("queue packets for network policies: %w", err)
	}
	if remove {
		return nil
	}
	want := map[chain]string{}
	for _, f := range x.families {
		c := f.xtablesChain()
		if want[c], err = c.content(); err != nil {
			return err
		}
	}
	x.want = want
	return nil
}

func (f ipFamily) rules(nft *nftables.Conn, table *nftables.Table, addresses []netip.Addr) error {
	nft.AddTable(table)
	set := &nftables.Set{Table: table, Name: xtablesSet, KeyType: nftables.TypeIPAddr}
	source, destination := uint32(12), uint32(16) // offsets in the IPv4 header
	if f == ipv6Family {
		set.KeyType, source, destination = nftables.TypeIP6Addr, 8, 24
	}
	var elements []nftables.SetElement
	for _, a := range addresses {
		elements = append(elements, nftables.SetElement{Key: a.AsSlice()})
	}
	if err := nft.AddSet(set, elements); err != nil {
		return err
	}
	chain := nft.AddChain(&nftables.Chain{Name: f.xtablesChain().name, Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityRef(*nftables.ChainPriorityNATSource - 5)})
	accept := &expr.Verdict{Kind: expr.VerdictAccept}
	zero := make([]byte, 4)
	if f == ipv6Family {
		// No address is found without neighbor discovery. As in the controller's own rules, that is all of ICMPv6.
		nft.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_ICMPV6}}, accept}})
	}
	// The node's own programs, the kubelet with its probes among them, and connections that were judged.
	nft.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeySKUID, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: zero}, accept}})
	nft.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Xor: zero,
			Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: zero}, accept}})
	for _, offset := range []uint32{source, destination} {
		nft.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(f.addressLen)},
			&expr.Lookup{SourceRegister: 1, SetName: set.Name, SetID: set.ID},
			queueTarget()}})
	}
	return nil
}

// queueTarget is NFQUEUE in its first revision: the queue's number, padded to what the kernel aligns it to.
func queueTarget() *expr.Target {
	info := make(xt.Unknown, unix.SizeofPtr)
	binary.NativeEndian.PutUint16(info, packetQueue)
	return &expr.Target{Name: "NFQUEUE", Info: &info}
}
