package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"quorate.dev/quorate/internal/lab"
	"quorate.dev/quorate/internal/machines"
	"quorate.dev/quorate/internal/require"
	"quorate.dev/quorate/internal/spec"
)

func (a *app) lab() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "lab",
		Short: "Manage labs: hosts made of Linux namespaces on this machine",
	}
	cmd.PersistentFlags().StringVar(&name, "lab", "", "the lab's name (default: the spec's cluster name, or the only lab)")
	open := func() (*lab.Lab, error) { return a.openLab(name) }
	cmd.AddCommand(a.labCreate(), reads(a.labList()), a.labSSH(open), a.labExec(open), a.labFault(open), a.labHeal(open), a.labScale(&name), a.labDelete(open, &name), a.labRequirements())
	return cmd
}

func (a *app) openLab(name string) (*lab.Lab, error) {
	if name != "" {
		l, err := lab.Open(name)
		if errors.Is(err, lab.ErrNotFound) || errors.Is(err, lab.ErrName) {
			return nil, usageError{fmt.Errorf("%w; `quorate lab list` shows the labs", err)}
		}
		return l, err
	}
	all, err := lab.List()
	if err != nil {
		return nil, err
	}
	if a.file == "" && len(all) == 1 {
		return all[0], nil
	}
	path, err := a.specPath()
	if err != nil {
		if len(all) == 0 {
			return nil, usageError{errors.New("there is no lab: create one with `quorate up` or `quorate lab create`")}
		}
		return nil, usageError{errors.New("there are several labs: choose one with --lab")}
	}
	c, err := a.named(path)
	if err != nil {
		return nil, err
	}
	return lab.Open(c.Metadata.Name)
}

func (a *app) labCreate() *cobra.Command {
	var empty bool
	var family string
	var o machines.Options
	cmd := &cobra.Command{
		Use:   "create [NAME]",
		Short: "Create the machines for a spec (-f), or for the default cluster, without building a cluster",
		Long: "Creates the machines for a spec (-f), or for the default cluster, without building a cluster.\n\n" +
			"A profile makes machines like certain real servers:\n\n" + profileHelp(),
		Example: "  quorate lab create test --profile hardened,noisy-shell --profile worker-a=docker --profile zone/b=second-nic",
		Args:    cobra.MaximumNArgs(1),
		PreRunE: func(*cobra.Command, []string) error { return knownSource(sourceAuto, family) },
		RunE: func(cmd *cobra.Command, args []string) error {
			name := ""
			if len(args) == 1 {
				name = args[0]
			}
			c, otherwise, err := a.upSpec(cmd.Context(), name, sourceAuto, family, func(c *spec.Cluster) error {
				if !c.NeedsLab() {
					return usageError{errors.New("all hosts of the spec have addresses, so there are no lab machines to create")}
				}
				if err := o.Check(c); err != nil {
					return usageError{err}
				}
				return nil
			})
			if err != nil {
				return err
			}
			o.Bundle, o.Otherwise = !empty, otherwise
			sink, done := a.progress()
			resolved, err := machines.Create(cmd.Context(), c, o, sink)
			done()
			if err != nil {
				return explainLab(cmd.Context(), err)
			}
			l, err := lab.Open(resolved.Metadata.Name)
			if err != nil {
				return err
			}
			return a.printLabs(cmd.Context(), []*lab.Lab{l})
		},
	}
	cmd.Flags().BoolVar(&empty, "empty", false, "create machines without the bundle on their disks")
	familyFlag(cmd, &family)
	cmd.Flags().StringVar(&o.Image, "image", "", "the system of the machines: "+strings.Join(lab.Images, " or ")+" (default: "+lab.Images[0]+")")
	cmd.Flags().StringArrayVar(&o.Profiles, "profile", nil, "make machines like certain real servers: NAME[,NAME…], or TARGET=NAME[,NAME…] for one machine or zone/NAME; may be repeated")
	cmd.Flags().BoolVar(&o.OwnDisks, "own-disks", false, "give each machine its own filesystem: a power-off loses what had not been written to the disk")
	return cmd
}

// profileHelp lists the profiles of machines.
func profileHelp() string {
	var b strings.Builder
	for _, p := range lab.Profiles {
		fmt.Fprintf(&b, "  %-12s %s\n", p.Name, p.What)
	}
	return b.String()
}

// labInfo is a lab as the machine-readable output shows it.
type labInfo struct {
	Name       string   `json:"name"`
	Image      string   `json:"image"`
	Subnet     string   `json:"subnet"`
	Zones      []string `json:"zones"`
	VirtualIPs []string `json:"virtualIPs"`
	SSHKey     string   `json:"sshKey"`
	KnownHosts string   `json:"knownHosts"`
	// SudoPassword is a file with the password for sudo, if there are machines where root cannot log in.
	SudoPassword string              `json:"sudoPassword,omitempty"`
	Machines     []lab.MachineStatus `json:"machines"`
	Cuts         []string            `json:"cuts"`
}

func (a *app) labList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the labs and the state of their machines",
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := lab.List()
			if err != nil {
				return err
			}
			return a.printLabs(cmd.Context(), all)
		},
	}
}

func (a *app) printLabs(ctx context.Context, labs []*lab.Lab) error {
	infos := []labInfo{}
	for _, l := range labs {
		machines, err := l.Status(ctx)
		if err != nil {
			return err
		}
		cuts, err := l.Cuts()
		if err != nil {
			return err
		}
		info := labInfo{Name: l.Name(), Image: l.Image(), Subnet: l.Subnet().String(), Zones: l.Zones(), SSHKey: l.SSHKey(), KnownHosts: l.KnownHosts(),
			SudoPassword: l.SudoPassword(), Machines: machines, Cuts: cuts}
		for _, ip := range l.VirtualIPs() {
			info.VirtualIPs = append(info.VirtualIPs, ip.String())
		}
		infos = append(infos, info)
	}
	return a.print(infos, func(w io.Writer) error {
		if len(infos) == 0 {
			_, err := fmt.Fprintln(w, "No labs. To create one, run: quorate up")
			return err
		}
		for _, l := range infos {
			fmt.Fprintf(w, "%s  %s  zones %s  %s\n", l.Name, l.Subnet, strings.Join(l.Zones, ", "), l.Image)
			if l.SudoPassword != "" {
				fmt.Fprintf(w, "For sudo: export QUORATE_SUDO_PASSWORD=$(cat %s)\n", l.SudoPassword)
			}
			if len(l.Cuts) > 0 {
				fmt.Fprintf(w, "Cut: %s\n", strings.Join(l.Cuts, ", "))
			}
			t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
			fmt.Fprintln(t, "  MACHINE\tZONE\tADDRESS\tSTATE\tROLES\tPROFILES")
			for _, m := range l.Machines {
				fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%s\t%s\n", m.Name, m.Zone, m.Address, m.State, strings.Join(m.Roles, ", "), strings.Join(m.Profiles, ", "))
			}
			if err := t.Flush(); err != nil {
				return err
			}
		}
		return nil
	})
}

func (a *app) labSSH(open func() (*lab.Lab, error)) *cobra.Command {
	cmd := &cobra.Command{
		Use: "ssh MACHINE [COMMAND…]", Short: "Log in to a machine, or run a command on it, over SSH", Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := open()
			if err != nil {
				return err
			}
			m, err := l.Machine(args[0])
			if err != nil {
				return usageError{err}
			}
			command := args[1:]
			if len(command) > 0 && command[0] == "--" {
				command = command[1:]
			}
			options := []string{"-i", l.SSHKey(), "-o", "UserKnownHostsFile=" + l.KnownHosts(), "-o", "IdentitiesOnly=yes", "-o", "ConnectTimeout=5"}
			if jump := l.Jump(m); jump != "" {
				// Unlike -J, this uses the key and the known hosts of the lab for the jump host, too.
				options = append(options, "-o", fmt.Sprintf("ProxyCommand=ssh -i '%s' -o UserKnownHostsFile='%s' -o IdentitiesOnly=yes -o ConnectTimeout=5 -W %%h:%%p ssh://%s",
					l.SSHKey(), l.KnownHosts(), jump))
			}
			ssh := exec.CommandContext(cmd.Context(), "ssh", append(append(options, m.User()+"@"+m.Address.String()), command...)...)
			ssh.Stdin, ssh.Stdout, ssh.Stderr = a.in, a.stdout, a.err
			return exitOf(ssh.Run())
		},
	}
	cmd.Flags().SetInterspersed(false) // what follows the machine are flags of the command there
	return cmd
}

func (a *app) labExec(open func() (*lab.Lab, error)) *cobra.Command {
	return &cobra.Command{
		Use: "exec MACHINE -- COMMAND…", Short: "Run a command on a machine without using its network", Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := open()
			if err != nil {
				return err
			}
			return exitOf(l.Exec(cmd.Context(), args[0], args[1:], a.in, a.stdout, a.err))
		},
	}
}

// exitOf passes on a program's exit status without a message: the program has printed its own.
func exitOf(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		return &statusError{exit.ExitCode()}
	}
	return err
}

// faults are the kinds of faults that can be injected into a lab, each with its reversal.
var faults = map[string]struct {
	inject, heal func(*lab.Lab, context.Context, string) error
	what         string
}{
	"power-off": {powerOff, powerOn, "a machine, or zone/NAME: power is lost immediately; written data is kept (with `lab create --own-disks`: only what had reached the disk)"},
	"freeze":    {(*lab.Lab).Freeze, (*lab.Lab).Thaw, "a machine: every process is suspended"},
	"cut":       {(*lab.Lab).Cut, (*lab.Lab).Heal, "a machine, zone/NAME, or A:B for the link between two: all packets are dropped"},
}

func powerOff(l *lab.Lab, ctx context.Context, target string) error {
	if zone, ok := strings.CutPrefix(target, "zone/"); ok {
		return l.PowerOffZone(ctx, zone)
	}
	return l.PowerOff(ctx, target)
}

func powerOn(l *lab.Lab, ctx context.Context, target string) error {
	if zone, ok := strings.CutPrefix(target, "zone/"); ok {
		return l.PowerOnZone(ctx, zone)
	}
	return l.PowerOn(ctx, target)
}

func faultNames() []string {
	var names []string
	for n := range faults {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

func knownFault(kind string) error {
	if _, known := faults[kind]; !known {
		return usageError{fmt.Errorf("unknown fault %q: must be one of %s", kind, strings.Join(faultNames(), ", "))}
	}
	return nil
}

func faultHelp() string {
	var b strings.Builder
	for _, n := range faultNames() {
		fmt.Fprintf(&b, "  %-10s %s\n", n, faults[n].what)
	}
	return b.String()
}

func (a *app) labFault(open func() (*lab.Lab, error)) *cobra.Command {
	return &cobra.Command{
		Use: "fault KIND TARGET", Short: "Inject a fault: power-off, freeze, cut", Args: cobra.ExactArgs(2), ValidArgs: faultNames(),
		Long:    "Injects a fault, which lasts until `quorate lab heal` removes it:\n\n" + faultHelp(),
		PreRunE: func(_ *cobra.Command, args []string) error { return knownFault(args[0]) },
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := open()
			if err != nil {
				return err
			}
			return faults[args[0]].inject(l, cmd.Context(), args[1])
		},
	}
}

func (a *app) labHeal(open func() (*lab.Lab, error)) *cobra.Command {
	return &cobra.Command{
		Use: "heal [KIND TARGET]", Short: "Remove one fault, or all of them", Args: cobra.MaximumNArgs(2),
		PreRunE: func(_ *cobra.Command, args []string) error {
			switch len(args) {
			case 0:
				return nil
			case 1:
				return usageError{errors.New("heal takes a kind and a target, or no arguments to remove all faults")}
			}
			return knownFault(args[0])
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := open()
			if err != nil {
				return err
			}
			if len(args) == 0 {
				return l.HealAll(cmd.Context())
			}
			return faults[args[0]].heal(l, cmd.Context(), args[1])
		},
	}
}

func (a *app) labDelete(open func() (*lab.Lab, error), name *string) *cobra.Command {
	return &cobra.Command{
		Use: "delete", Short: "Delete a lab and everything that belongs to it",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if *name == "" {
				l, err := open()
				if err != nil {
					return err
				}
				*name = l.Name()
			}
			return a.deleteLab(cmd.Context(), *name, "Deleted the lab %s.\n")
		},
	}
}

func (a *app) labRequirements() *cobra.Command {
	return &cobra.Command{
		Use: "requirements", Short: "Install the packages that a lab needs on this machine, and check that labs can run",
		RunE: func(cmd *cobra.Command, _ []string) error {
			sink, done := a.progress()
			err := require.Packages(cmd.Context(), lab.Requirements(), sink)
			done()
			if err != nil {
				return err
			}
			return lab.Check(cmd.Context())
		},
	}
}
