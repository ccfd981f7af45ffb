package step

import (
	"context"
	"fmt"
	"net/url"
	"slices"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/hostside/watch"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/spec"
)

func makeWatchKey(ctx context.Context, e *Env, s plan.Step) error {
	c, err := e.Conns.Get(s.Host)
	if err != nil {
		return err
	}
	_, err = watch.MakeKey.On(ctx, c, struct{}{})
	return err
}

// admitWatch tells a host whom it admits, and what they may restore there.
func admitWatch(ctx context.Context, e *Env, s plan.Step) error {
	h, c, err := e.target(s)
	if err != nil {
		return err
	}
	d := *s.Approved
	if d.Files, err = e.withCA(d.Files); err != nil {
		return err
	}
	var configs []string
	repairs := e.Cluster.Spec.Repair.Watch
	if repairs {
		if configs, err = e.repairConfigs(ctx, h, s); err != nil {
			return err
		}
	}
	in := watch.Admission{WatchAdmits: facts.WatchAdmits{Generation: s.Generation, ReadOnly: !repairs, User: h.SSH.User, Units: map[string]facts.WatchUnit{}}, Approved: watch.Approve(d, configs...), Reach: reach(e.Cluster)}
	for _, cp := range e.Cluster.HostsWith(spec.RoleControlPlane) {
		conn, err := e.Conns.Get(cp.Name)
		if err != nil {
			in.Keep = append(in.Keep, cp.Name)
			continue
		}
		id, err := watch.ReadIdentity.On(ctx, conn, struct{}{})
		if err != nil {
			return err
		}
		if id.Key == "" {
			return fmt.Errorf("%s has no key for its unit", cp.Name)
		}
		in.Units[cp.Name] = facts.WatchUnit{Key: id.Key, Address: cp.Address}
	}
	_, err = watch.Admit.On(ctx, c, in)
	return err
}

// repairConfigs are kubeadm's configurations with which something may be restored on a host.
func (e *Env) repairConfigs(ctx context.Context, h spec.Host, s plan.Step) (out []string, _ error) {
	if h.Has(spec.RoleControlPlane) {
		_, _, rendered, err := e.initConfig(s)
		if err != nil {
			return nil, err
		}
		_, _, stored, err := e.storedConfig(ctx, s)
		if err != nil {
			return nil, err
		}
		out = append(out, rendered, stored)
	}
	if h.Has(spec.RoleEtcd) {
		raw, err := e.kubeadm().EtcdHost(h)
		if err != nil {
			return nil, err
		}
		out = append(out, string(raw))
	}
	return out, nil
}

// reach are the addresses to which a unit may have a host connect: those of the cluster.
func reach(c *spec.Cluster) (out []string) {
	for _, h := range c.Spec.Hosts {
		out = append(out, h.Address)
	}
	for _, e := range c.Endpoints() {
		out = append(out, e.Name, e.Address)
	}
	for _, e := range c.Spec.Etcd.Endpoints {
		if u, err := url.Parse(e); err == nil {
			out = append(out, u.Hostname())
		}
	}
	out = append(out, c.Spec.LoadBalancer.Address, hostconfig.EndpointHost(c))
	out = slices.DeleteFunc(out, func(a string) bool { return a == "" })
	slices.Sort(out)
	return slices.Compact(out)
}

// configureWatch gives the unit of a control plane the spec, and the keys of all hosts. Those of hosts that cannot be reached are not
// known, and the unit leaves these hosts alone until the next run.
func configureWatch(ctx context.Context, e *Env, s plan.Step) error {
	c, err := e.Conns.Get(s.Host)
	if err != nil {
		return err
	}
	text, err := spec.Marshal(e.Cluster)
	if err != nil {
		return err
	}
	in := watch.Config{WatchNote: facts.WatchNote{Generation: s.Generation, HostKeys: map[string][]string{}}, Host: s.Host, Spec: string(text), Files: e.Cluster.Contents(), At: map[string]string{}}
	if h, known := e.Cluster.Host(s.Host); known && e.Cluster.Spec.Monitoring.Exporter {
		in.ExporterNames = hostconfig.ExporterNames(h)
	}
	if f := e.Seen.Hosts[s.Host].Facts; f != nil && f.Watch != nil && f.Watch.Config != nil {
		for _, h := range e.Cluster.Spec.Hosts {
			if keys := f.Watch.Config.HostKeys[h.Name]; len(keys) > 0 {
				in.HostKeys[h.Name] = keys
			}
		}
	}
	for _, h := range e.Cluster.Spec.Hosts {
		in.At[h.Name] = h.Inside()
		conn, err := e.Conns.Get(h.Name)
		if err != nil {
			continue
		}
		id, err := watch.ReadIdentity.On(ctx, conn, struct{}{})
		if err != nil {
			return err
		}
		if len(id.HostKeys) == 0 {
			return fmt.Errorf("%s has no host keys in /etc/ssh/ssh_host_*_key.pub, so control planes could not tell that it is the right one", h.Name)
		}
		in.HostKeys[h.Name] = id.HostKeys
	}
	_, err = watch.Configure.On(ctx, c, in)
	return err
}

func removeWatch(ctx context.Context, e *Env, s plan.Step) error {
	c, err := e.Conns.Get(s.Host)
	if err != nil {
		return err
	}
	_, err = watch.Remove.On(ctx, c, struct{}{})
	return err
}

func removeExporter(ctx context.Context, e *Env, s plan.Step) error {
	c, err := e.Conns.Get(s.Host)
	if err != nil {
		return err
	}
	_, err = watch.RemoveExporter.On(ctx, c, struct{}{})
	return err
}
