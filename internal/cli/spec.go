package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/durable"
	"quorate.dev/quorate/internal/paths"
	"quorate.dev/quorate/internal/size"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/sshconfig"
	"quorate.dev/quorate/internal/ui"
)

func (a *app) init() *cobra.Command {
	var (
		o     = spec.InitOptions{Versions: bundle.Versions()}
		hosts []string
		given []spec.Host // hosts, as they are read
		to    string
		yes   bool
		from  string
		book  string
		login string
		usual spec.SSH
		ssh   string
	)
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Write a commented cluster.yaml",
		Long: `Writes a commented spec: from flags, from a Terraform output, from an Ansible inventory, or from a running cluster.

With --from-cluster, it logs in to one control plane of a running cluster that kubeadm built, asks it for all hosts, looks at each of them,
and writes the spec of the whole cluster, ready for quorate plan and quorate apply --adopt. It changes nothing on the hosts, and no secret gets into
the spec. Comments at the top of the file name what it could not find out, what keeps the cluster from being adopted, and what to do. If the
spec is not valid yet, the file is written all the same, and the exit status is 2.`,
		Example: `  quorate init
  quorate init --name prod --endpoint api.prod.example.com:6443 --virtual-ip 10.0.0.100 \
    --host name=cp-a,address=10.0.0.11,role=control-plane,zone=a --host …
  terraform output -json | quorate init --from-terraform -
  quorate init --from-ansible inventory.ini --zones a,b,c
  quorate init --from-cluster root@10.0.0.11 --name prod --host name=lb-a,address=10.0.0.21,role=load-balancer,zone=a --host …
  quorate init --ssh-config --host name=cp-a,role=control-plane,zone=a --host …`,
		PreRunE: func(cmd *cobra.Command, _ []string) error {
			if err := onlyOne(cmd, "from-terraform", "from-ansible", "from-cluster"); err != nil {
				return usageError{err}
			}
			if a.file != "" && cmd.Flags().Changed("to") { // --file names the spec in every other command
				return usageError{errors.New("--file and --to both name the file to write; use one of them")}
			}
			if login == "" {
				if err := onlyWith(cmd, "from-cluster", sshFlags...); err != nil {
					return usageError{err}
				}
			}
			if err := spec.CheckJump(usual); err != nil && (usual.Jump != "" || !cmd.Flags().Changed("ssh-config")) { // which may have the jump hosts
				return usageError{fmt.Errorf("--ssh-jump and --ssh-jump-key: %w", err)}
			}
			for name, n := range map[string]int{"control-planes": o.ControlPlanes, "etcd-hosts": o.EtcdHosts, "workers": o.Workers, "load-balancers": o.LoadBalancers} {
				if n > size.MaxNodes {
					return usageError{fmt.Errorf("--%s %d: Kubernetes supports at most %d nodes", name, n, size.MaxNodes)}
				}
			}
			for _, h := range hosts {
				host, err := spec.ParseHostFlag(h)
				if err != nil {
					return usageError{err}
				}
				given = append(given, host)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if a.file != "" {
				to = a.file
			}
			if err := a.canReplace(to, yes); err != nil {
				return err // before anything is read, names are looked up, or anybody waits for hosts
			}
			perm := os.FileMode(0o644)
			if from != "" {
				sensitive, err := a.fromTerraform(cmd, from, &o)
				if err != nil {
					return usageError{err}
				}
				if sensitive {
					perm = 0o600
				}
			}
			if book != "" {
				if err := a.fromAnsible(cmd, book, &o); err != nil {
					return usageError{err}
				}
			}
			var config *sshconfig.Config
			if cmd.Flags().Changed("ssh-config") {
				config = openSSHConfig(ssh)
			}
			if cmd.Flags().Changed("from-cluster") {
				d, err := a.fromCluster(cmd, login, usual, config, given, o)
				if err != nil {
					return err
				}
				return a.writeDraft(to, yes, d)
			}
			o.Hosts = append(o.Hosts, given...)
			if config != nil {
				if err := a.fromSSHConfig(cmd.Context(), config, o.Hosts); err != nil {
					return usageError{err}
				}
			}
			data, err := spec.Init(o)
			if err != nil {
				return usageError{err}
			}
			if to == "-" {
				_, err := a.out.Write(data)
				return err
			}
			if err := writeSpec(to, data, perm, yes); err != nil {
				return err
			}
			fmt.Fprintf(a.err, "Wrote %s. Next, run quorate validate%[2]s, then quorate up%[2]s (for a lab) or quorate apply%[2]s (for your own hosts).\n", to, fileFlag(to))
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Name, "name", "", "the cluster's name")
	f.StringVar(&o.Version, "kubernetes-version", "", "the Kubernetes version")
	f.StringVar(&o.Topology, "topology", "", "stacked, or external (etcd on its own hosts, or an existing etcd)")
	f.StringVar(&o.Endpoint, "endpoint", "", "the DNS name and port of the API")
	f.StringVar(&o.Balancer, "balancer", "", "the type of load balancer: managed, or external for your own (default managed)")
	f.StringVar(&o.VirtualIP, "virtual-ip", "", "the virtual IP of the managed load balancers, or the address of your own")
	f.StringSliceVar(&o.Zones, "zones", nil, "the zones (default a,b,c)")
	f.IntVar(&o.ControlPlanes, "control-planes", 0, "the number of control planes (default 3)")
	f.IntVar(&o.EtcdHosts, "etcd-hosts", 0, "the number of etcd hosts with --topology external (default 3)")
	f.StringSliceVar(&o.Etcd.Endpoints, "etcd-endpoints", nil, "the client URLs of an existing etcd")
	f.StringVar(&o.Etcd.CAFile, "etcd-ca-file", "", "the existing etcd's CA certificate")
	f.StringVar(&o.Etcd.CertFile, "etcd-cert-file", "", "a client certificate for the existing etcd")
	f.StringVar(&o.Etcd.KeyFile, "etcd-key-file", "", "the private key of the client certificate")
	f.IntVar(&o.Workers, "workers", 0, "the number of workers (default 2; -1: none, and the control planes run the workloads)")
	f.IntVar(&o.LoadBalancers, "load-balancers", 0, "the number of load-balancer hosts (default 2; -1: run the load balancers on the control planes)")
	f.StringArrayVar(&hosts, "host", nil, "a host, as name=…,address=…,role=…,zone=… (can be repeated)")
	f.StringVar(&from, "from-terraform", "", "read the hosts from a `FILE` with the output of terraform output -json (- for stdin; see docs/terraform.md)")
	f.StringVar(&book, "from-ansible", "", "read the hosts from an Ansible inventory, `FILE` (- for stdin; see docs/ansible.md)")
	f.StringVar(&login, "from-cluster", "", "read a running cluster that kubeadm built, through the control plane `USER@HOST[:PORT]` (see docs/guide.md)")
	f.StringVar(&usual.KeyFile, "ssh-key", "", "with --from-cluster: the key with which the hosts are reached, if not the usual ones")
	f.StringVar(&usual.KnownHostsFile, "ssh-known-hosts", "", "with --from-cluster: where the host keys are verified and recorded (default ~/.ssh/known_hosts)")
	f.StringVar(&usual.Jump, "ssh-jump", "", "with --from-cluster: the jump host in front of the hosts, as user@address:port; several are separated by commas")
	f.StringVar(&usual.JumpKeyFile, "ssh-jump-key", "", "with --from-cluster: the key for the jump hosts, if it is another one; one for each of several, separated by commas")
	f.StringVar(&ssh, "ssh-config", "", "fill in how SSH reaches the hosts as your OpenSSH does, and addresses that are missing; =`FILE` reads that file instead of the usual configuration")
	f.Lookup("ssh-config").NoOptDefVal = usualSSHConfig
	f.StringVar(&to, "to", usualFile, "the file to write (- for stdout); --file does the same")
	f.BoolVar(&yes, "yes", false, "overwrite an existing file")
	return cmd
}

// usualFile is where init writes a spec, and where the other commands look for it.
const usualFile = "cluster.yaml"

// fileFlag is what a command needs to read the spec in a file, with a space before it.
func fileFlag(file string) string {
	if file == usualFile || file == "-" {
		return ""
	}
	return " -f " + file
}

// hostFlags describe hosts, so they conflict with what other hosts come from.
var hostFlags = []string{"host", "control-planes", "etcd-hosts", "workers", "load-balancers"}

// input reads a file, or stdin.
func (a *app) input(file string) ([]byte, error) {
	if file == "-" {
		return paths.ReadAll(a.in, "stdin")
	}
	return paths.Read(file)
}

// inputName is what errors call it.
func inputName(file string) string {
	if file == "-" {
		return "stdin"
	}
	return file
}

// lookupTimeout is how long the name of one host is looked up.
const lookupTimeout = 5 * time.Second

// fromAnsible fills in what flags do not set from an Ansible inventory.
func (a *app) fromAnsible(cmd *cobra.Command, from string, o *spec.InitOptions) error {
	for _, name := range hostFlags {
		if cmd.Flags().Changed(name) {
			return fmt.Errorf("--%s cannot be combined with --from-ansible: the hosts come from the inventory; change it, or edit the spec afterwards", name)
		}
	}
	if info, err := os.Stat(from); err == nil && info.IsDir() {
		return fmt.Errorf("reading the Ansible inventory: %s is a directory; pass what Ansible makes of all of it: ansible-inventory -i %s --list", from, from)
	}
	data, err := a.input(from)
	if err != nil {
		return fmt.Errorf("reading the Ansible inventory: %w", err)
	}
	silent := false
	lookup := func(name string) string {
		if silent {
			return "" // each further name would take as long
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), lookupTimeout)
		defer cancel()
		found, err := net.DefaultResolver.LookupHost(ctx, name)
		silent = ctx.Err() != nil
		return sshconfig.Usable(found, err) // if it is empty, the note says that nobody knows the address
	}
	if cmd.Flags().Changed("ssh-config") {
		lookup = nil // it knows where the names lead
	}
	inventory, err := spec.ReadAnsible(data, inputName(from), spec.AnsibleOptions{Zones: o.Zones, Lookup: lookup})
	if err != nil {
		return err
	}
	a.notes(inventory.Notes)
	for _, dir := range []string{"group_vars", "host_vars"} {
		at := filepath.Join(filepath.Dir(from), dir)
		if _, err := os.Stat(at); err == nil && from != "-" {
			a.notes([]string{at + " was not read. To include it, pass what Ansible makes of all of it: ansible-inventory -i " + from + " --list"})
		}
	}
	*o = inventory.Options.Over(*o)
	return nil
}

// fromTerraform fills in what flags do not set from a Terraform output.
func (a *app) fromTerraform(cmd *cobra.Command, from string, o *spec.InitOptions) (sensitive bool, err error) {
	for _, name := range hostFlags {
		if cmd.Flags().Changed(name) {
			return false, fmt.Errorf("--%s cannot be combined with --from-terraform: the hosts come from Terraform; change its output, or edit the spec afterwards", name)
		}
	}
	data, err := a.input(from)
	if err != nil {
		return false, fmt.Errorf("reading the Terraform output: %w", err)
	}
	t, err := spec.ReadTerraform(data, inputName(from), o.Zones)
	if err != nil {
		return false, err
	}
	a.notes(t.Notes)
	*o = t.Options.Over(*o)
	return t.Sensitive, nil
}

// usualSSHConfig stands for what ssh reads without being told.
const usualSSHConfig = "usual"

func openSSHConfig(file string) *sshconfig.Config {
	if file == usualSSHConfig {
		file = ""
	}
	return sshconfig.Open(file)
}

// fromSSHConfig fills in how hosts are reached.
func (a *app) fromSSHConfig(ctx context.Context, config *sshconfig.Config, hosts []spec.Host) error {
	if len(hosts) == 0 {
		return errors.New("--ssh-config needs hosts: name them with --host, --from-terraform, or --from-ansible")
	}
	notes, err := config.Apply(ctx, hosts)
	a.notes(notes)
	return err
}

// notes prints what the user should know.
func (a *app) notes(notes []string) {
	for _, n := range notes {
		fmt.Fprintln(a.err, "Note: "+spec.OneLine(n))
	}
}

// sshFlags say how the hosts of a running cluster are reached.
var sshFlags = []string{"ssh-key", "ssh-known-hosts", "ssh-jump", "ssh-jump-key"}

// onlyOne refuses flags that cannot be combined.
func onlyOne(cmd *cobra.Command, names ...string) error {
	var given []string
	for _, name := range names {
		if cmd.Flags().Changed(name) {
			given = append(given, "--"+name)
		}
	}
	if len(given) > 1 {
		return fmt.Errorf("%s cannot be combined: the hosts come from one of them", strings.Join(given, " and "))
	}
	return nil
}

// onlyWith refuses flags that belong to another one, which is not there.
func onlyWith(cmd *cobra.Command, needs string, names ...string) error {
	for _, name := range names {
		if cmd.Flags().Changed(name) {
			return fmt.Errorf("--%s needs --%s; use --host …,key=…,jump=… or --ssh-config for hosts that you name", name, needs)
		}
	}
	return nil
}

func (a *app) validate() *cobra.Command {
	var schema bool
	cmd := &cobra.Command{
		Use:   "validate",
		Short: "Check a spec without touching anything",
		RunE: func(*cobra.Command, []string) error {
			if schema {
				_, err := a.out.Write(spec.Schema())
				return err
			}
			path, err := a.specPath()
			if err != nil {
				return err
			}
			c, err := a.load(path, true)
			if err == nil && !c.NeedsLab() {
				c, err = a.load(path, false)
			}
			var problems spec.Errors
			if errors.As(err, &problems) && a.output != "text" {
				if err := a.print(map[string]any{"valid": false, "problems": problems}, nil); err != nil {
					return err
				}
				return &statusError{exitUsage}
			}
			if err != nil {
				return err
			}
			warnings := append([]spec.Problem{}, spec.Warnings(c)...)
			return a.print(map[string]any{"valid": true, "problems": spec.Errors{}, "warnings": warnings}, func(w io.Writer) error {
				for _, p := range warnings {
					fmt.Fprintf(w, "Warning: %s.\n", p)
				}
				_, err := fmt.Fprintf(w, "%s is valid: cluster %s, Kubernetes %s, %s.\n", path, c.Metadata.Name, c.Spec.Kubernetes.Version, ui.Plural(len(c.Spec.Hosts), "host"))
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&schema, "schema", false, "print the JSON schema of the spec instead")
	return cmd
}

// canReplace refuses a file that cannot be written, or that exists already and is not to be replaced.
func (a *app) canReplace(file string, replace bool) error {
	if err := toWrite(file, replace); err != nil {
		return err
	}
	return a.canWrite(file)
}

// toWrite refuses a file that exists already and is not to be replaced.
func toWrite(file string, replace bool) error {
	if file == "-" || replace {
		return nil
	}
	_, err := os.Stat(file)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return usageError{err}
	}
	return usageError{fmt.Errorf("%s already exists: choose another file with --to, or replace it with --yes", file)}
}

func writeSpec(file string, data []byte, perm os.FileMode, replace bool) error {
	if err := toWrite(file, replace); err != nil {
		return err
	}
	// A file that is replaced keeps its mode, by which others may read it.
	if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && perm == 0o600 {
		if err := os.Chmod(file, perm); err != nil {
			return err
		}
	}
	return durable.Update(file, data, perm)
}
