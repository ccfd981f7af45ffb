package plan

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/monitoring"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/render/manifest"
	"quorate.dev/quorate/internal/spec"
)

// This file plans the unit with which control planes observe the cluster, and repair it: its keys, who admits them and for what, and its
// configuration.
// The unit itself is part of the configuration of the control planes, and so is the one that serves metrics.

// watch plans the unit after everything else, and its removal.
func (b *builder) watch(after ...*Step) {
	defer b.removeExporters(after)
	units := b.c.HostsWith(spec.RoleControlPlane)
	var made []*Step
	for _, h := range b.c.Spec.Hosts {
		f := b.Facts(h.Name)
		if f == nil {
			continue
		}
		_, file := f.Files[hostconfig.WatchUnitFile]
		carries := f.Watch.Given() || file
		switch {
		case !b.c.Watched() && carries:
			b.removeWatch(h, "spec.repair.watch and spec.monitoring.exporter are off", after)
		case b.c.Watched() && !h.Has(spec.RoleControlPlane) && (file || f.Watch != nil && (f.Watch.Key != "" || f.Watch.Config != nil)):
			made = append(made, b.removeWatch(h, "it is no control plane, and observes and repairs nothing", after))
		case b.c.Watched() && h.Has(spec.RoleControlPlane) && (f.Watch == nil || f.Watch.Key == ""):
			made = append(made, b.add(Step{Kind: MakeWatchKey, Host: h.Name, Title: "make the key of " + b.unit(), Reason: "the key never leaves the control plane"}, after...))
		}
	}
	if !b.c.Watched() {
		return
	}
	admit, limits, configure := "admit the control planes for repairs", "; their keys are good for repairs within limits, and for nothing else", "have the control plane repair the cluster"
	does := "repairs"
	if !b.c.Spec.Repair.Watch {
		admit, limits, configure, does = "admit the control planes to observe the cluster", "; their keys are good for reading, and for nothing else", "have the control plane observe the cluster", "observes"
	}
	generation := b.watchGeneration()
	var admitted []*Step
	for _, h := range b.c.Spec.Hosts {
		if f := b.Facts(h.Name); f != nil {
			if why := b.staleAdmission(h, f, units, generation); why != "" || len(made) > 0 {
				d := facts.Desired{} // who only observes restores nothing
				if b.c.Spec.Repair.Watch {
					d = b.restorable(h, f)
				}
				admitted = append(admitted, b.add(Step{Kind: AdmitWatch, Host: h.Name, Title: admit, Approved: &d, Generation: generation,
					Reason: cmp.Or(why, "a control plane gets another key") + limits},
					append(append(slices.Clone(after), made...), b.at[h.Name].configure)...))
			}
		}
	}
	for _, h := range units {
		if f := b.Facts(h.Name); f != nil {
			if why := b.staleWatch(f, generation); why != "" {
				b.add(Step{Kind: ConfigureWatch, Host: h.Name, Title: configure, Generation: generation,
					Reason: why + "; one of the control planes leads, and " + does}, slices.Concat(after, made, admitted, []*Step{b.at[h.Name].configure})...)
			}
		}
	}
}

func (b *builder) removeWatch(h spec.Host, reason string, after []*Step) *Step {
	return b.add(Step{Kind: RemoveWatch, Host: h.Name, Title: "remove the unit that observes and repairs, and its access", Reason: reason}, append(slices.Clone(after), b.at[h.Name].configure)...)
}

// removeExporters plans the removal of what serves metrics, from hosts that do not serve any, and then of its permissions in the cluster. The unit that observes is told before:
// nobody makes the credentials again.
func (b *builder) removeExporters(after []*Step) {
	wanted := func(h spec.Host) bool { return b.c.Spec.Monitoring.Exporter && h.Has(spec.RoleControlPlane) }
	told := append(slices.Clone(after), b.ofKind(ConfigureWatch, RemoveWatch)...)
	for _, h := range b.c.Spec.Hosts {
		if f := b.Facts(h.Name); f == nil || f.Files[hostconfig.ExporterUnitFile] == "" || wanted(h) {
			continue
		}
		reason := "spec.monitoring.exporter is off"
		if b.c.Spec.Monitoring.Exporter {
			reason = "it is no control plane"
		}
		b.add(Step{Kind: RemoveExporter, Host: h.Name, Title: "remove the unit that serves metrics, and its credentials", Reason: reason}, append(slices.Clone(told), b.at[h.Name].configure)...)
	}
	if api := b.Seen.API; api != nil && !b.c.Spec.Monitoring.Exporter && api.Applied[manifest.Exporter] != "" {
		b.add(Step{Kind: RemoveManifest, Detail: manifest.Exporter, Manifest: manifest.Exporter, Title: "remove the permissions of the exporter of metrics from the cluster",
			Reason: "spec.monitoring.exporter is off"}, append(told, b.ofKind(RemoveExporter)...)...)
	}
}

// refusePrometheus: its images are in the bundle and in no registry, and adopted hosts get none of a bundle.
func (b *builder) refusePrometheus() error {
	if !b.c.InstallsPrometheus() {
		return nil
	}
	for _, h := range b.c.Spec.Hosts {
		if h.IsNode() && b.leftAsItIs(h) {
			return refused(RuleOwnProgram, "spec.monitoring.prometheus needs images on "+h.Name+", whose images Quorate does not manage",
				"Leave it out, and use a Prometheus of your own (`quorate monitoring scrape`). An adopted host is converted by `quorate reset "+h.Name+"` and `quorate apply`.")
		}
	}
	return nil
}

// removePrometheus plans the removal of the Prometheus that an earlier spec had installed.
func (b *builder) removePrometheus(after ...*Step) {
	if api := b.Seen.API; api != nil && !b.c.InstallsPrometheus() && api.Applied[manifest.Prometheus] != "" {
		b.add(Step{Kind: RemoveManifest, Detail: manifest.Prometheus, Manifest: manifest.Prometheus, Title: "remove Prometheus and Alertmanager from the cluster",
			Reason: "spec.monitoring.prometheus.install is off; what others have put into the namespace " + monitoring.Namespace + " stays"}, after...)
	}
}

// restoreBudgets plans that the disruption budgets of Prometheus are what they were before a drain that was interrupted. What else is planned for them
// comes later.
func (b *builder) restoreBudgets() *Step {
	if api := b.Seen.API; api == nil || api.Prometheus == nil || len(api.Prometheus.Relaxed) == 0 || !b.c.InstallsPrometheus() {
		return nil
	}
	return b.add(Step{Kind: RestoreBudgets, Title: "restore the disruption budgets of Prometheus", Reason: b.Relaxed()})
}

// unit names the unit by what it is for.
func (b *builder) unit() string {
	if b.c.Spec.Repair.Watch {
		return "the unit that repairs"
	}
	return "the unit that observes"
}

// watchGeneration identifies everything that decides what a unit knows of the cluster, and what it may restore.
func (b *builder) watchGeneration() string {
	record, err := spec.NewRecord(b.c).Marshal() // without what differs between the machines that apply it
	if err != nil {
		panic("plan: " + err.Error())
	}
	var files []string // by the settings that name them, and not by their paths
	for _, f := range b.c.SettingsFiles() {
		files = append(files, f.Field, b.c.Content(f.Path))
	}
	text, err := json.Marshal(struct {
		Spec    string
		Files   []string
		Bundle  string
		Removed []spec.Host
	}{string(record), files, strings.Join(b.bundle.all(), ""), b.Removed()})
	if err != nil { // it is plain data
		panic("plan: " + err.Error())
	}
	return facts.Sum(text)
}

// staleAdmission says why a host does not admit the units as it should; empty if it does. The key of a control plane that cannot be
// reached is not known, and stays as it is.
func (b *builder) staleAdmission(h spec.Host, f *facts.Facts, units []spec.Host, generation string) string {
	if f.Watch == nil || f.Watch.Admits == nil {
		return "it admits no control plane"
	}
	have := maps.Clone(f.Watch.Admits.Units)
	for _, u := range units {
		admitted, has := have[u.Name]
		delete(have, u.Name)
		of := b.Facts(u.Name)
		switch {
		case of == nil || of.Watch == nil || of.Watch.Key == "":
		case !has:
			return "it does not admit " + u.Name
		case admitted.Key != of.Watch.Key || admitted.Address != u.Address:
			return u.Name + " has another key or address than the one that it admits"
		}
	}
	switch a := f.Watch.Admits; {
	case len(have) > 0:
		return "it admits hosts that are no control planes"
	case a.Broken != "":
		return a.Broken
	case a.ReadOnly == b.c.Spec.Repair.Watch:
		return "what the control planes may do on it has changed"
	case a.User != h.SSH.User:
		return "it admits them as another user than " + h.SSH.User
	case a.Generation != generation:
		return "what may be restored on it has changed"
	case f.Self == facts.OtherCopy:
		return "its copy of quorate is another version"
	}
	return ""
}

// staleWatch says why the unit of a control plane has not the configuration that it should have; empty if it has. Host keys of hosts
// that cannot be reached stay as they are.
func (b *builder) staleWatch(f *facts.Facts, generation string) string {
	if f.Watch == nil || f.Watch.Config == nil {
		return b.unit() + " has no configuration"
	}
	if f.Watch.Config.Generation != generation {
		return b.unit() + " knows another spec, or other hosts"
	}
	for _, h := range b.c.Spec.Hosts {
		if of := b.Facts(h.Name); of != nil && of.Watch != nil && len(of.Watch.HostKeys) > 0 && !slices.Equal(of.Watch.HostKeys, f.Watch.Config.HostKeys[h.Name]) {
			return b.unit() + " knows other host keys of " + h.Name
		}
	}
	return ""
}

// restorable is everything that a repair may restore on a host when the plan is done.
func (b *builder) restorable(h spec.Host, f *facts.Facts) facts.Desired {
	d := hostconfig.Hosts(b.c)
	if b.leftAsItIs(h) {
		d = merge(d, hostconfig.Adopted(b.c, h))
	} else {
		d = merge(d, b.own(h, f))
	}
	d = merge(d, hostconfig.Watched(b.c, h))
	if b.c.Balances(h) {
		d = merge(d, hostconfig.Balancer(b.c, h, f, b.CA(), b.balancersAmong(b.Removed())...))
	}
	d.Files = slices.DeleteFunc(d.Files, func(file facts.File) bool { return file.Path == facts.BegunFile })
	d.Files = append(d.Files, facts.File{Path: facts.EstablishedFile, Mode: 0o600, Content: b.c.Metadata.Name + "\n"})
	return d
}
