package step

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/etcd"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/balancer"
	"quorate.dev/quorate/internal/hostside/kubeadm"
	"quorate.dev/quorate/internal/hostside/lostquorum"
	"quorate.dev/quorate/internal/observe"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

// serveAgain is how long the API of a recovered cluster may take until it accepts a write.
const serveAgain = 4 * time.Minute

// excludeTimeout is how long a load balancer may take to stop sending clients to control planes: nobody waits for it longer.
const excludeTimeout = 5 * time.Second

// onEach does something on hosts in parallel.
func (e *Env) onEach(hosts []string, do func(name string, c *host.Conn) error) error {
	errs := make([]error, len(hosts))
	var wg sync.WaitGroup
	for i, name := range hosts {
		wg.Go(func() {
			c, err := e.Conns.Get(name)
			if err == nil {
				err = do(name, c)
			}
			errs[i] = err
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// stopMembers notes the recovery on all hosts, and then stops what could vote or serve.
func stopMembers(ctx context.Context, e *Env, s plan.Step) error {
	r := s.Recovery
	permit, err := e.permit(ctx, s)
	if err != nil {
		return err
	}
	if err := e.onEach(r.Members, func(_ string, c *host.Conn) error {
		_, err := lostquorum.Note.On(ctx, c, r.Note)
		return err
	}); err != nil {
		return err
	}
	hosts := slices.Compact(slices.Sorted(slices.Values(slices.Concat(r.Members, r.APIServers))))
	return e.onEach(hosts, func(name string, c *host.Conn) error {
		_, err := lostquorum.Stop.Make(ctx, c, permit, lostquorum.StopRequest{Etcd: slices.Contains(r.Members, name), API: slices.Contains(r.APIServers, name)})
		return err
	})
}

// recoverMember rebuilds a copy before anything is moved. Then the data of the other hosts are set aside, so that nothing can start on
// them, then those of the host itself, and the rebuilt ones take their place.
func recoverMember(ctx context.Context, e *Env, s plan.Step) error {
	c, err := e.Conns.Get(s.Host)
	if err != nil {
		return err
	}
	permit, err := e.permit(ctx, s)
	if err != nil {
		return err
	}
	r := s.Recovery
	h, _ := e.Present.Host(s.Host)
	built, err := lostquorum.Build.Make(ctx, c, permit, lostquorum.BuildRequest{Source: r.Note.Path, Stamp: r.Note.Stamp, Token: r.Note.Cluster + "-recovered-" + r.Note.Stamp, Now: time.Now(),
		Name: h.Name, PeerURL: spec.PeerURL(h.Address)})
	if err != nil {
		return fmt.Errorf("making a cluster of one from %s on %s: %w", r.Note.Path, s.Host, err)
	}
	e.report(s, fmt.Sprintf("the data go up to revision %d; %d entries at the end of the log count that the member did not know to be acknowledged; the new cluster begins at revision %d", built.Revision, built.Kept, built.NewRevision))
	aside := func(name string, c *host.Conn) error {
		data, has := r.Aside[name]
		if !has {
			return nil
		}
		to, err := lostquorum.SetAside.Make(ctx, c, permit, lostquorum.AsideRequest{Stamp: r.Note.Stamp, ClusterID: data.ClusterID, MemberID: data.MemberID})
		if err == nil && to != "" {
			e.report(s, "the data that were in place on "+name+" are in "+to)
		}
		return err
	}
	others := slices.DeleteFunc(slices.Clone(r.Members), func(name string) bool { return name == s.Host })
	if err := e.onEach(others, aside); err != nil {
		return err
	}
	if err := aside(s.Host, c); err != nil {
		return err
	}
	_, err = lostquorum.Put.Make(ctx, c, permit, built)
	return err
}

// serveRecovered starts the member and the API servers that can use it, and has the API accept a write: the record of the recovery.
// Then the recovery is over for the hosts.
func serveRecovered(ctx context.Context, e *Env, s plan.Step) error {
	c, err := e.Conns.Get(s.Host)
	if err != nil {
		return err
	}
	permit, err := e.permit(ctx, s)
	if err != nil {
		return err
	}
	r := s.Recovery
	if err := e.abandon(ctx, s, c); err != nil {
		return err
	}
	e.exclude(ctx, s, permit)
	if err := writeManifests(ctx, e, s, permit, "etcd"); err != nil {
		return err
	}
	if _, err := lostquorum.Start.Make(ctx, c, permit, struct{}{}); err != nil {
		return err
	}
	if _, err := kubeadm.AwaitEtcd.On(ctx, c, struct{}{}); err != nil {
		return err
	}
	servers, uses := r.APIServers, lostquorum.APIRequest{}
	if e.Cluster.StackedEtcd() {
		servers = []string{s.Host} // the others have no etcd yet
	} else {
		h, _ := e.Present.Host(s.Host)
		uses.EtcdServers = []string{hostconfig.EtcdClientURL(h)}
	}
	if err := writeManifests(ctx, e, s, permit, facts.APIServer); err != nil {
		return err
	}
	if err := e.onEach(servers, func(_ string, c *host.Conn) error {
		_, err := lostquorum.StartAPI.Make(ctx, c, permit, uses)
		return err
	}); err != nil {
		return err
	}
	record, err := json.Marshal(r)
	if err != nil {
		return err
	}
	ctx, cancel := withDeadline(ctx, serveAgain, "the first write to the recovered cluster")
	defer cancel()
	if err := retry(ctx, 250*time.Millisecond, func(ctx context.Context) error {
		client, err := e.api(ctx)
		if err != nil {
			return err
		}
		limited, stop := context.WithTimeoutCause(ctx, 5*time.Second, errors.New("no answer within 5s"))
		defer stop()
		return Note(limited, client, observe.RecoveryKey, string(record))
	}); err != nil {
		return err
	}
	if err := writeManifests(ctx, e, s, permit, facts.ControllerManager, facts.Scheduler); err != nil {
		return err
	}
	if err := e.onEach(servers, func(_ string, c *host.Conn) error {
		_, err := lostquorum.StartControllers.Make(ctx, c, permit, struct{}{})
		return err
	}); err != nil {
		return err
	}
	others := slices.DeleteFunc(slices.Clone(r.Members), func(name string) bool { return name == s.Host })
	finish := func(_ string, c *host.Conn) error {
		_, err := lostquorum.Finish.On(ctx, c, struct{}{})
		return err
	}
	if err := e.onEach(others, finish); err != nil {
		e.report(s, "the note of the recovery stays on a host: "+err.Error()) // it counts only on the host where the cluster begins
	}
	return finish(s.Host, c)
}

// writeManifests writes the manifests of these static pods again that are missing on the host where the cluster begins.
func writeManifests(ctx context.Context, e *Env, s plan.Step, permit cluster.Permit, pods ...string) error {
	pods = slices.DeleteFunc(pods, func(pod string) bool { return !slices.Contains(s.Recovery.Manifests, pod) })
	if len(pods) == 0 {
		return nil
	}
	_, c, config, err := e.initConfig(s)
	if err != nil {
		return err
	}
	if _, err := kubeadm.RestoreControlPlane.Make(ctx, c, permit, kubeadm.RestoreRequest{Config: config, Pods: pods}); err != nil {
		return fmt.Errorf("writing the manifests of %s on %s again: %w", strings.Join(pods, " and "), s.Host, err)
	}
	return nil
}

// abandon notes on the hosts that the old cluster is over, before the new one begins. Members of it that come back count no longer. The host
// where the new one begins has to know it; the others are told if they can be.
func (e *Env) abandon(ctx context.Context, s plan.Step, c *host.Conn) error {
	ids := append(e.Seen.AbandonedEtcds(), s.Recovery.Note.OldClusterID)
	tell := func(_ string, c *host.Conn) error {
		_, err := lostquorum.Abandon.On(ctx, c, ids)
		return err
	}
	if err := tell(s.Host, c); err != nil {
		return err
	}
	others := slices.DeleteFunc(slices.Clone(s.Recovery.Members), func(name string) bool { return name == s.Host })
	if err := e.onEach(others, tell); err != nil {
		e.report(s, "not all hosts were told that the etcd cluster "+s.Recovery.Note.OldClusterID+" is over: "+err.Error())
	}
	return nil
}

// tellAbandoned notes on a host that joins which etcd clusters recoveries have replaced. It may be the last one that knows.
func (e *Env) tellAbandoned(ctx context.Context, s plan.Step, c *host.Conn) {
	ids := e.Seen.AbandonedEtcds()
	if len(ids) == 0 {
		return
	}
	if _, err := lostquorum.Abandon.On(ctx, c, ids); err != nil {
		e.report(s, "the host was not told which etcd clusters were replaced: "+err.Error())
	}
}

// exclude has the load balancers send no clients to control planes that may come back as they were, with an API server on the old data. Load balancers that cannot be told do not keep the cluster from coming back.
func (e *Env) exclude(ctx context.Context, s plan.Step, permit cluster.Permit) {
	if len(s.Recovery.Excluded) == 0 || e.Cluster.Spec.LoadBalancer.Type != spec.BalancerManaged {
		return
	}
	var balancers []string
	for _, h := range e.Present.BalancerHosts() {
		balancers = append(balancers, h.Name)
	}
	var (
		mu     sync.Mutex
		failed []string
	)
	if err := e.onEach(balancers, func(name string, c *host.Conn) error {
		limited, cancel := context.WithTimeoutCause(ctx, excludeTimeout, fmt.Errorf("no answer within %s", excludeTimeout))
		defer cancel()
		for _, server := range s.Recovery.Excluded {
			if _, err := balancer.SetPool.Make(limited, c, permit, balancer.PoolRequest{Server: server, Drain: true}); err != nil {
				mu.Lock()
				failed = append(failed, name+": "+err.Error())
				mu.Unlock()
			}
		}
		return nil
	}); err != nil {
		failed = append(failed, err.Error())
	}
	if len(failed) > 0 {
		e.report(s, "load balancers may send clients to "+cluster.List(s.Recovery.Excluded)+" if these come back as they were: "+strings.Join(failed, "; "))
	}
}

// rejoinEtcd gives a control plane a new member of a stacked etcd. Each part is skipped if it was done before.
func rejoinEtcd(ctx context.Context, e *Env, s plan.Step) error {
	h, c, config, err := e.storedConfig(ctx, s)
	if err != nil {
		return err
	}
	permit, err := e.permit(ctx, s)
	if err != nil {
		return err
	}
	ctx, cancel := withDeadline(ctx, joinTimeout, "joining etcd again")
	defer cancel()
	via := e.otherMembers(s.Host)
	members, err := etcd.AddLearner(ctx, via, h.Name, spec.PeerURL(h.Address))
	if err != nil {
		return err
	}
	e.tellAbandoned(ctx, s, c)
	if _, err := kubeadm.RejoinEtcd.Make(ctx, c, permit, kubeadm.RejoinRequest{Config: config, Members: members}); err != nil {
		return err
	}
	if err := etcd.Promote(ctx, via, h.Name, h.Address, func(text string) { e.note(s, text) }); err != nil {
		return err
	}
	_, err = kubeadm.FinishRejoin.Make(ctx, c, permit, struct{}{})
	return err
}
