package reset

import (
	"context"
	"slices"

	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/found"
)

// RemoveBalancer removes the load balancer from a host that stays in its cluster. What its programs and kernel settings were like
// before is restored, as by Reset, and forgotten: if the host becomes a load balancer again, it is noted again. The rest of the
// cluster on the host is not touched. It can be interrupted at any moment and run again.
var RemoveBalancer = host.DefineChange("node.remove-balancer", func(ctx context.Context, in Request) (Report, error) {
	return local.removeBalancer(ctx, in)
})

func (h target) removeBalancer(ctx context.Context, in Request) (Report, error) {
	r := Report{Removed: []string{}, Restored: []string{}, Notes: []string{}}
	node, err := h.marked(in.Cluster)
	if err != nil {
		return r, err
	}
	all, err := h.found().Read()
	if err != nil {
		return r, err
	}
	mine := slices.Concat(ofBalancer, markOfBalancer)
	record := found.Record{Whole: all.Whole, Files: map[string]*found.File{}, Directories: all.Directories, Sysctls: map[string]string{}, Units: map[string]found.Unit{}, Modules: map[string]bool{}}
	for _, p := range mine {
		if before, noted := all.Files[p.path]; noted {
			record.Files[p.path] = before
		}
	}
	for _, u := range unitsOfBalancer {
		if before, noted := all.Units[u.name]; noted {
			record.Units[u.name] = before
		}
	}
	for _, name := range bindNonlocal {
		if before, noted := all.Sysctls[name]; noted {
			record.Sysctls[name] = before
		}
	}
	w := work{target: h, begun: begun{Cluster: in.Cluster, Node: node}, in: in, record: record, report: &r}
	return r, w.run(ctx, "removing the load balancer", []stage{
		{"stopping the services", func(ctx context.Context) error { return w.stopUnits(ctx, unitsOfBalancer) }},
		{"removing the virtual IP", func(context.Context) error {
			removed, err := w.addresses(in.VirtualIPs)
			r.Removed = append(r.Removed, removed...)
			return err
		}},
		{"restoring configuration files", func(context.Context) error { return w.places(ofBalancer) }},
		{"restoring kernel settings", w.restoreKernel},
		{"restoring units", func(ctx context.Context) error { return w.restoreUnits(ctx, names(unitsOfBalancer)) }},
		{"removing what the programs left", func(context.Context) error { return w.places(stateOfBalancer) }},
		{"forgetting how the host was found", func(context.Context) error { return h.found().Forget(record) }},
		{"removing the watchdog", func(ctx context.Context) error {
			if err := w.places(markOfBalancer); err != nil {
				return err
			}
			return w.systemctl(ctx, "daemon-reload")
		}},
	})
}

// bindNonlocal are the kernel settings with which HAProxy listens on the virtual IP while another host has it.
var bindNonlocal = []string{"net.ipv4.ip_nonlocal_bind", "net.ipv6.ip_nonlocal_bind"}
