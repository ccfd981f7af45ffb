package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"quorate.dev/quorate/internal/size"
	"quorate.dev/quorate/internal/ui"
)

func (a *app) size() *cobra.Command {
	var (
		nodes, pods int
		zones       []string
	)
	cmd := &cobra.Command{
		Use:   "size",
		Short: "Say which machines and settings a cluster of a given size needs",
		Long: `Says how many control planes, etcd members, and load balancers a cluster of that many nodes and pods needs, how large each of them
must be, how fast etcd's disk must be, how much room workers need for the pods of a zone that is lost, and which settings grow with the
cluster. Each figure comes with its source; docs/size.md explains them.

Without --nodes, it answers for the spec: for spec.size, or for the hosts if there are more. It connects to nothing.`,
		Example: `  quorate size --nodes 200 --pods 6000
  quorate size --nodes 1000 --zones a,b,c,d,e -o json
  quorate size -f cluster.yaml`,
		PreRunE: func(cmd *cobra.Command, _ []string) error {
			given := cmd.Flags().Changed
			switch {
			case given("nodes") && (nodes < 1 || nodes > size.MaxNodes):
				return usageError{fmt.Errorf("--nodes %d: use a number from 1 to %d, which is the most that Kubernetes supports", nodes, size.MaxNodes)}
			case given("pods") && (pods < 1 || pods > size.MaxPods):
				return usageError{fmt.Errorf("--pods %d: use a number from 1 to %d, which is the most that Kubernetes supports", pods, size.MaxPods)}
			case given("zones") && len(zones) == 0:
				return usageError{errors.New("--zones: name at least one zone")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.sizeOf(cmd, nodes, pods, zones)
			if err != nil {
				return err
			}
			advice := size.Advise(c)
			return a.print(advice, func(w io.Writer) error { return writeAdvice(w, advice) })
		},
	}
	f := cmd.Flags()
	f.IntVar(&nodes, "nodes", 0, "the number of nodes, control planes included (default: those of the spec)")
	f.IntVar(&pods, "pods", 0, fmt.Sprintf("the number of pods (default: %d for each node)", size.PodsPerNode))
	f.StringSliceVar(&zones, "zones", nil, "the zones (default a,b,c, or those of the spec)")
	return cmd
}

// sizeOf is the size that flags give, or the spec.
func (a *app) sizeOf(cmd *cobra.Command, nodes, pods int, zones []string) (size.Cluster, error) {
	given := cmd.Flags().Changed
	out := size.Cluster{Nodes: nodes, Pods: pods, Zones: distinct(zones)}
	if !given("nodes") {
		path, err := a.specPath()
		if err != nil {
			return size.Cluster{}, usageError{errors.New("no size: pass --nodes, or a spec with -f")}
		}
		c, err := a.named(path)
		if err != nil {
			return size.Cluster{}, err
		}
		planned, pods := c.Planned()
		out.Nodes = planned
		if !given("pods") {
			out.Pods = pods
		}
		if !given("zones") {
			for _, h := range c.Spec.Hosts {
				zones = append(zones, h.Zone)
			}
			out.Zones = distinct(zones)
		}
	}
	if out.Pods == 0 {
		out.Pods = out.Nodes * size.PodsPerNode
	}
	if out.Zones == 0 {
		out.Zones = 3
	}
	return out, nil
}

func distinct(names []string) int {
	seen := map[string]bool{}
	for _, n := range names {
		if n != "" {
			seen[n] = true
		}
	}
	return len(seen)
}

func writeAdvice(w io.Writer, a size.Advice) error {
	fmt.Fprintf(w, "%s, %s, %s\n\n", ui.Plural(a.Nodes, "node"), ui.Plural(a.Pods, "pod"), ui.Plural(a.Zones, "zone"))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\tmachines\tCPUs\tmemory\tdisk\tsource")
	roles := []struct {
		name string
		size.Role
	}{{"control planes", a.ControlPlanes}, {"etcd hosts", a.Etcd}, {"load balancers", a.LoadBalancers}}
	for _, r := range roles {
		fmt.Fprintf(t, "%s\t%d\t%d\t%s\t%s\t%s\n", r.name, r.Count, r.CPUs, ui.Bytes(r.MemoryBytes), ui.Bytes(r.DiskBytes), strings.Join(r.Sources, ", "))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(w)
	for _, r := range roles {
		fmt.Fprintf(w, "%s: %s.\n", r.name, r.Why)
	}
	fmt.Fprintf(w, "etcd's disk: 99 of 100 writes of 8 KB within %d ms, fdatasync included, and %d of them in a row within a second. Source: %s, %s.\n", a.EtcdDisk.FsyncMillis, a.EtcdDisk.SequentialIOPS, size.FromEtcd, size.FromOpenShift)
	fmt.Fprintf(w, "workers: %s. Pods may request at most %d %% of the CPU and memory of all workers. A worker runs %d pods, and %d after the loss.\n",
		a.Workers.Why, a.Workers.RequestsPercent, a.Workers.PodsPerNode, a.Workers.PodsPerNodeLeft)
	fmt.Fprintf(w, "CoreDNS: each replica takes %s. Source: %s.\n", ui.Bytes(a.CoreDNSMemoryBytes), size.FromCoreDNS)
	fmt.Fprintf(w, "pods' addresses: spec.network.podCIDR is a /%d, or has a shorter prefix. It cannot be changed later.\n\nsettings for this size (spec.size):\n", a.PodCIDRBits)
	t = tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, s := range a.Settings {
		why := s.Why
		if s.Default {
			why = "as in small clusters"
		}
		fmt.Fprintf(t, "  %s\t%d\t%s\t%s\n", s.Name, s.Value, s.Source, why)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if len(a.Problems) > 0 {
		fmt.Fprintln(w, "\nproblems:")
		for _, p := range a.Problems {
			fmt.Fprintln(w, "  "+p)
		}
	}
	_, err := fmt.Fprintln(w, "\ndocs/size.md explains the figures and quotes the sources; -o json has them, too.")
	return err
}
