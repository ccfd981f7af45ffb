package main

import (
	"context"
	"encoding/binary"
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
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"sigs.k8s.io/kube-network-policies/pkg/networkpolicy"
)

// packetQueue is where the kernel hands the first packet of each connection that a policy may concern.
const packetQueue = 100

// enforcePolicies has network policies judged by kube-network-policies, the component of Kubernetes' network group. A
// cluster without policies pays for one watch: pods and namespaces are followed from the first policy on. Where policies
// exist already it returns when they are known, so that no pod of this node starts before them. It fails through fail.
func enforcePolicies(ctx context.Context, client kubernetes.Interface, node string, background *sync.WaitGroup, fail func(error)) error {
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
	enforce := func() error { return startController(ctx, client, factory, node, background, fail) }
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

func startController(ctx context.Context, client kubernetes.Interface, factory informers.SharedInformerFactory, node string, background *sync.WaitGroup, fail func(error)) error {
	klog.Info("There are network policies: enforcing them")
	policies, pods := factory.Networking().V1().NetworkPolicies(), factory.Core().V1().Pods()
	controller, err := networkpolicy.NewController(client, policies, factory.Core().V1().Namespaces(), pods, nil, nil, nil, nil,
		networkpolicy.Config{NodeName: node, QueueID: packetQueue, NetfilterBug1766Fix: true})
	if err != nil {
		return fmt.Errorf("enforce network policies: %w", err)
	}
	var own *xtables
	if err := canQueue(); err != nil {
		klog.Infof("This kernel has no nftables expression to queue packets (%v): queueing them by its target of xtables", err)
		own = &xtables{node: node, policies: policies.Informer().GetStore(), pods: pods.Informer().GetStore(), changed: make(chan struct{}, 1)}
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
		return ctx.Err()
	}
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

// xtables queues packets on kernels that have only the older target for it. The judgement is the controller's all the same:
// its own rules, which such a kernel refuses, differ in nothing else.
type xtables struct {
	node           string
	policies, pods cache.Store
	changed        chan struct{}
	write          func(addresses []netip.Addr, remove bool) error // apply

	written bool // whether the table is there, with these:
	have    []netip.Addr
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

// concerns says whether the rules may depend on an object: on every policy, and on the pods of this node, which are few of
// the cluster's.
func (x *xtables) concerns(o any) bool {
	if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = gone.Obj
	}
	pod, ok := o.(*corev1.Pod)
	return !ok || pod.Spec.NodeName == x.node
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
			return insist(context.WithoutCancel(ctx), func() error { return x.write(nil, true) })
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

// sync writes the table if it would be another one: most changes of pods concern neither addresses nor labels.
func (x *xtables) sync() error {
	want := x.addresses()
	if x.written && slices.Equal(want, x.have) {
		return nil
	}
	if err := x.write(want, false); err != nil {
		return err
	}
	x.written, x.have = true, want
	return nil
}

// addresses are those of this node's pods that some policy selects.
func (x *xtables) addresses() (out []netip.Addr) {
	for _, o := range x.pods.List() {
		pod := o.(*corev1.Pod)
		if pod.Spec.NodeName != x.node || pod.Spec.HostNetwork || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		selected := slices.ContainsFunc(x.policies.List(), func(o any) bool {
			policy := o.(*networkingv1.NetworkPolicy)
			selector, err := metav1.LabelSelectorAsSelector(&policy.Spec.PodSelector)
			return err == nil && policy.Namespace == pod.Namespace && selector.Matches(labels.Set(pod.Labels))
		})
		for _, ip := range pod.Status.PodIPs {
			if a, err := netip.ParseAddr(ip.IP); selected && err == nil && a.Is4() {
				out = append(out, a)
			}
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

// apply replaces the whole table at one stroke, or takes it away.
func (x *xtables) apply(addresses []netip.Addr, remove bool) error {
	nft, err := nftables.New()
	if err != nil {
		return fmt.Errorf("queue packets for network policies: %w", err)
	}
	table := nft.AddTable(&nftables.Table{Name: "kube-network-policies-xt", Family: nftables.TableFamilyIPv4})
	nft.DelTable(table)
	if !remove {
		if err := rules(nft, table, addresses); err != nil {
			return fmt.Errorf("queue packets for network policies: %w", err)
		}
	}
	if err := nft.Flush(); err != nil {
		return fmt.Errorf("queue packets for network policies: %w", err)
	}
	return nil
}

func rules(nft *nftables.Conn, table *nftables.Table, addresses []netip.Addr) error {
	nft.AddTable(table)
	set := &nftables.Set{Table: table, Name: "podips", KeyType: nftables.TypeIPAddr}
	var elements []nftables.SetElement
	for _, a := range addresses {
		elements = append(elements, nftables.SetElement{Key: a.AsSlice()})
	}
	if err := nft.AddSet(set, elements); err != nil {
		return err
	}
	chain := nft.AddChain(&nftables.Chain{Name: "postrouting", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityRef(*nftables.ChainPriorityNATSource - 5)})
	accept := &expr.Verdict{Kind: expr.VerdictAccept}
	zero := make([]byte, 4)
	// The node's own programs, the kubelet with its probes among them, and connections that were judged.
	nft.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Meta{Key: expr.MetaKeySKUID, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: zero}, accept}})
	nft.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Xor: zero,
			Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: zero}, accept}})
	const source, destination = 12, 16 // offsets in the IPv4 header
	for _, offset := range []uint32{source, destination} {
		nft.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
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
