package plan

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/size"
	"quorate.dev/quorate/internal/spec"
)

// This file plans how settings reach a cluster that exists. Kubeadm's configuration in the cluster is first, so that whoever joins
// or is upgraded takes them from there. Then control planes replace their static pods, one at a time and as in an upgrade, and
// kubelets restart. There is no record of how far it got: what is left to do follows from the arguments and the fields that every
// host runs with. Files and kernel settings, for which nothing restarts, are part of configureNode.

// Managed names what the spec sets, or has set. The cluster remembers it, so that a setting that leaves the spec is removed, and
// what others have set stays.
type Managed struct {
	// Arguments are names by program, and Kubelet are fields.
	Arguments map[string][]string `json:"arguments,omitempty"`
	Kubelet   []string            `json:"kubelet,omitempty"`
}

// SettingsChange is what becomes different in kubeadm's configuration in the cluster.
type SettingsChange struct {
	// Arguments are values by program and name; an empty one is removed.
	Arguments map[string]map[string]string `json:"arguments,omitempty"`
	// Kubelet are fields of the kubelets' configuration; one that is null is removed.
	Kubelet map[string]any `json:"kubelet,omitempty"`
}

// managedPrograms are the programs whose arguments the cluster remembers. Those of etcd are its timers, which come to its members in an
// order of their own (see timers.go).
var managedPrograms = append(slices.Clone(hostconfig.Programs), facts.Etcd)

func (m Managed) empty() bool { return m.equal(Managed{}) }

func (m Managed) equal(o Managed) bool {
	return slices.Equal(sorted(m.Kubelet), sorted(o.Kubelet)) && !slices.ContainsFunc(managedPrograms, func(p string) bool {
		return !slices.Equal(sorted(m.Arguments[p]), sorted(o.Arguments[p]))
	})
}

func (m Managed) with(o Managed) Managed {
	out := Managed{Kubelet: sorted(append(slices.Clone(m.Kubelet), o.Kubelet...))}
	for _, p := range managedPrograms {
		if names := sorted(append(slices.Clone(m.Arguments[p]), o.Arguments[p]...)); len(names) > 0 {
			if out.Arguments == nil {
				out.Arguments = map[string][]string{}
			}
			out.Arguments[p] = names
		}
	}
	return out
}

func (m Managed) String() string {
	text, err := json.Marshal(m)
	if err != nil {
		panic(fmt.Sprintf("plan: names of settings cannot be written: %v", err)) // they are text
	}
	return string(text)
}

func sorted(list []string) []string { return slices.Compact(slices.Sorted(slices.Values(list))) }

// wanted are the settings as every host must have them.
type wanted struct {
	given, managed Managed
	// configured and runs are values by program and argument, in kubeadm's configuration and in manifests. An empty one must not
	// be there.
	configured, runs map[string]map[string]string
	// kubelet are fields; one that is nil must not be there.
	kubelet map[string]any
}

// What of kubeadm's configuration a step stores, where it is not all of it.
const (
	storeKubelets = "kubelets"
	storePrograms = "programs"
)

// settings evaluates the spec and what the cluster remembers.
func (b *builder) settings() wanted {
	if b.want != nil {
		return *b.want
	}
	w := wanted{configured: map[string]map[string]string{}, runs: map[string]map[string]string{}, kubelet: map[string]any{}}
	arguments, nodes := hostconfig.Arguments(b.c), b.nodes()
	fields := hostconfig.KubeletFields(b.c, nodes)
	if slices.ContainsFunc(b.c.Spec.Hosts, func(h spec.Host) bool { return h.IsNode() && b.leftAsItIs(h) }) {
		// Programs that Quorate does not manage keep what they have, however large the cluster becomes.
		maps.DeleteFunc(arguments[facts.APIServer], func(name, _ string) bool { return hostconfig.SizeArguments(b.c)[name] != "" })
		maps.DeleteFunc(fields, func(name string, _ any) bool { return hostconfig.SizeFields(b.c)[name] != nil })
	}
	for _, p := range hostconfig.Programs {
		if names := slices.Sorted(maps.Keys(arguments[p])); len(names) > 0 {
			if w.given.Arguments == nil {
				w.given.Arguments = map[string][]string{}
			}
			w.given.Arguments[p] = names
		}
	}
	if b.c.Spec.Failover.ElectionTimeout != "" {
		if w.given.Arguments == nil {
			w.given.Arguments = map[string][]string{}
		}
		w.given.Arguments[facts.Etcd] = []string{hostconfig.EtcdElectionArgument, hostconfig.EtcdHeartbeatArgument}
	}
	w.given.Kubelet = slices.Sorted(maps.Keys(fields))
	var former Managed
	if b.Seen.API != nil && b.Seen.API.Settings != "" {
		// What cannot be read was written by a newer version, which remembers more than this one.
		_ = json.Unmarshal([]byte(b.Seen.API.Settings), &former)
	}
	w.managed = w.given.with(former)
	for _, p := range hostconfig.Programs {
		w.configured[p], w.runs[p] = map[string]string{}, map[string]string{}
		for _, name := range w.managed.Arguments[p] {
			if value, given := arguments[p][name]; given {
				w.configured[p][name], w.runs[p][name] = value, value
			} else {
				w.configured[p][name], w.runs[p][name] = hostconfig.WithoutSetting(b.c, p, name)
			}
		}
	}
	for _, field := range w.managed.Kubelet {
		if value, given := fields[field]; given {
			w.kubelet[field] = value
		} else {
			w.kubelet[field] = hostconfig.KubeletWithoutSetting(field, nodes)
		}
	}
	if b.changesProfile() {
		arguments, kubelet := hostconfig.Profile(b.c)
		for p, all := range arguments {
			maps.Copy(w.configured[p], all)
			maps.Copy(w.runs[p], all)
		}
		maps.Copy(w.kubelet, kubelet)
	}
	if b.sharesPort() {
		w.configured[facts.APIServer][hostconfig.PortSharing], w.runs[facts.APIServer][hostconfig.PortSharing] = "true", "true"
	}
	if b.changesReconciler() {
		w.configured[facts.APIServer][hostconfig.ReconcilerArgument], w.runs[facts.APIServer][hostconfig.ReconcilerArgument] = b.reconciler(), b.reconciler()
	}
	b.want = &w
	return w
}

// nodes are the facts of all nodes that can be reached.
func (b *builder) nodes() (out []*facts.Facts) {
	for _, h := range b.c.Spec.Hosts {
		if f := b.Facts(h.Name); f != nil && h.IsNode() {
			out = append(out, f)
		}
	}
	return out
}

// refuseSettings: the programs of adopted hosts are not Quorate's to restart. Those of etcd are for refuseTimers.
func (b *builder) refuseSettings() error {
	s, ofNodes := b.c.Spec.Settings, b.settings().managed
	ofNodes.Arguments = maps.Clone(ofNodes.Arguments)
	delete(ofNodes.Arguments, facts.Etcd)
	if ofNodes.empty() && len(s.Registries)+len(s.Sysctls) == 0 {
		return nil
	}
	for _, h := range b.c.Spec.Hosts {
		if b.Reachable(h.Name) && h.IsNode() && b.leftAsItIs(h) {
			return refused(RuleOwnProgram, fmt.Sprintf("the spec has settings, and the programs on %s were installed without Quorate", h.Name),
				"Remove spec.settings, and change the settings of this cluster as it was installed: the ConfigMaps kubeadm-config and kubelet-config, and the files of each host.")
		}
	}
	return nil
}

// joined says that the settings of a host can be compared: it is a node of the cluster, and can be reached.
func (b *builder) joined(h spec.Host) bool {
	f := b.Facts(h.Name)
	return f != nil && h.IsNode() && f.Kubernetes.KubeletConfig && !b.leftAsItIs(h)
}

// replacesSettings says that the static pods of a control plane are replaced because of settings.
func (b *builder) replacesSettings(h spec.Host) bool {
	if !b.joined(h) {
		return false
	}
	pods, _ := b.staleSettings(h)
	return len(pods) > 0 || b.stopped(h)
}

// changeSettings is the order in which settings reach a cluster. It returns the step after which hosts join with them.
func (b *builder) changeSettings(hosts []spec.Host) *Step {
	if b.changesProfile() {
		return b.changeProfile(hosts)
	}
	ready := b.all()
	stored := b.storeSettings("", ready...)
	for _, h := range b.controlPlanesInTurn() {
		if b.joined(h) {
			b.settingsInTurn(h, append(ready, stored))
		}
	}
	b.restartKubelets(hosts, stored)
	return stored
}

// storeSettings puts them into kubeadm's configuration, when it is known that every node can take them: all of them, or one part.
func (b *builder) storeSettings(part string, after ...*Step) *Step {
	api, w := b.Seen.API, b.settings()
	if api == nil || w.managed.empty() && !b.changesProfile() && !b.sharesPort() && !b.changesReconciler() {
		return nil
	}
	change := &SettingsChange{}
	var why []string
	if part != storeKubelets {
		change.Arguments = map[string]map[string]string{}
		for _, p := range hostconfig.Programs {
			have := map[string]string{}
			if api.Kubeadm != nil && api.Kubeadm.Arguments[p] != nil {
				have = api.Kubeadm.Arguments[p]
			}
			change.Arguments[p] = w.configured[p]
			why = append(why, b.differences(p, have, w.configured[p])...)
		}
	}
	if part != storePrograms {
		change.Kubelet = w.kubelet
		for _, other := range b.otherFields(api.KubeletConfig, w.kubelet) {
			why = append(why, "the kubelets' "+other)
		}
	}
	var former Managed
	if api.Settings != "" {
		_ = json.Unmarshal([]byte(api.Settings), &former)
	}
	remembers := former.equal(w.managed) || len(b.ofKind(StoreSettings)) > 0
	if len(why) == 0 && remembers {
		return nil
	}
	if len(why) == 0 {
		why = append(why, "when settings leave the spec, they are removed")
	}
	title := map[string]string{"": "store the settings in kubeadm's configuration", storeKubelets: "store the kubelets' settings in kubeadm's configuration",
		storePrograms: "store the control planes' arguments in kubeadm's configuration"}[part]
	s := Step{Kind: StoreSettings, Detail: part, Title: title, Settings: change, Reason: reasons(why) + "; hosts that join or are upgraded take them from there. Nothing restarts"}
	if !remembers {
		s.Record = w.managed.String()
	}
	return b.add(s, append(after, b.checkFit())...)
}

// rememberSettings notes in a new cluster which settings it was built with.
func (b *builder) rememberSettings(after ...*Step) *Step {
	w := b.settings()
	if w.managed.empty() || b.Seen.API != nil && b.Seen.API.Settings == w.managed.String() {
		return nil
	}
	return b.add(Step{Kind: StoreSettings, Title: "remember the settings in the cluster", Record: w.managed.String(), Reason: "when settings leave the spec, they are removed"}, after...)
}

// forgetSettings ends that the cluster remembers settings that left the spec, when no host has them any more.
func (b *builder) forgetSettings(after ...*Step) {
	w := b.settings()
	if b.Seen.API == nil || w.given.equal(w.managed) || len(b.Unreachable()) > 0 || b.otherTimers() && !b.changesTimers() {
		return
	}
	b.add(Step{Kind: StoreSettings, Detail: "forget", Title: "forget the settings that left the spec", Record: w.given.String(), Reason: "no host has them any more"}, after...)
}

// differences describes in words how arguments differ from those that are wanted.
func differences(program string, have, want map[string]string) (out []string) {
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if have[name] != want[name] {
			out = append(out, different("--"+name+" of "+program, have[name], want[name]))
		}
	}
	return out
}

// differences also says which of the arguments follow from the size of the cluster.
func (b *builder) differences(program string, have, want map[string]string) []string {
	out := differences(program, have, want)
	if program == facts.APIServer {
		for name := range hostconfig.SizeArguments(b.c) {
			b.becauseOfSize(out, "--"+name)
		}
	}
	return out
}

// otherFields does the same for fields of a kubelet's configuration.
func (b *builder) otherFields(have, want map[string]any) []string {
	out := otherFields(have, want)
	for name := range hostconfig.SizeFields(b.c) {
		b.becauseOfSize(out, name)
	}
	return out
}

// becauseOfSize adds the reason to what is said about a setting.
func (b *builder) becauseOfSize(texts []string, name string) {
	for i, text := range texts {
		if strings.HasPrefix(text, name+" ") {
			texts[i] = text + " (" + b.size() + ")"
		}
	}
}

// size says in words how large the cluster is to be.
func (b *builder) size() string {
	nodes, pods := b.c.Planned()
	return fmt.Sprintf("for %d nodes and %d pods, see docs/size.md", nodes, pods)
}

// outgrown warns of a cluster that has more nodes than it is planned for, if others of its settings would be right.
func (b *builder) outgrown() {
	if b.Seen.API == nil {
		return
	}
	nodes, pods := b.c.Planned()
	have := len(b.Seen.API.Nodes) + b.Seen.API.Simulated // nodes of no host are refused, but for simulated ones
	if have > nodes && size.SettingsOf(have, pods) != b.c.ForSize() {
		b.out.Warnings = append(b.out.Warnings, fmt.Sprintf("the cluster has %d nodes, and the spec plans it for %d: the settings that grow with a cluster are too small. Set spec.size.nodes", have, nodes))
	}
}

// otherFields does the same for fields of a kubelet's configuration.
func otherFields(have, want map[string]any) (out []string) {
	for _, field := range slices.Sorted(maps.Keys(want)) {
		if !hostconfig.SameField(have[field], want[field]) {
			out = append(out, different(field, have[field], want[field]))
		}
	}
	return out
}

func different(what string, have, want any) string {
	switch {
	case hostconfig.SameField(have, nil):
		return fmt.Sprintf("%s becomes %s", what, inWords(want))
	case hostconfig.SameField(want, nil):
		return fmt.Sprintf("%s is %s instead of the default", what, inWords(have))
	}
	return fmt.Sprintf("%s is %s instead of %s", what, inWords(have), inWords(want))
}

func inWords(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return strings.ReplaceAll(string(text), `"`, "")
}

// staleSettings are the programs of a control plane that run with other arguments, or have other probes, with the reasons.
func (b *builder) staleSettings(h spec.Host) (pods, why []string) {
	for _, p := range hostconfig.Programs {
		have := b.Facts(h.Name).Kubernetes.Arguments[p]
		if have == nil {
			continue // it has no manifest, which is restored with the settings
		}
		d := b.differences(p, have, b.settings().runs[p])
		if p == facts.APIServer {
			d = append(d, b.staleProbes(h)...)
		}
		if len(d) > 0 {
			pods, why = append(pods, p), append(why, d...)
		}
	}
	return pods, why
}

// staleKubelet is why a kubelet has to restart.
func (b *builder) staleKubelet(h spec.Host) (why []string) {
	k := b.Facts(h.Name).Kubernetes
	if k.Kubelet != nil {
		why = b.otherFields(k.Kubelet, b.settings().kubelet)
	}
	if len(why) == 0 && k.KubeletDue {
		why = append(why, "its configuration was changed after it had started")
	}
	return why
}

// interrupted says that an earlier run ended while the static pods of a control plane were being replaced, or right after that:
// the host is in no maintenance, was not reset, and has left the pools. One that is to join etcd again left them when the quorum was
// recovered.
func (b *builder) interrupted(h spec.Host) bool {
	return b.joined(h) && b.drained(h.Name) && !b.inMaintenance(h.Name) && !b.rejoins(h)
}

// settingsInTurn is how one control plane gets other settings.
func (b *builder) settingsInTurn(h spec.Host, after []*Step) {
	if b.programsInTurn(h, after) {
		return
	}
	b.kubeletInTurn(h, after)
	if b.interrupted(h) {
		b.returnFromReplacement(h, after)
	}
}

// kubeletInTurn restarts the kubelet of a control plane if it has other settings.
func (b *builder) kubeletInTurn(h spec.Host, after []*Step) {
	if stale := b.staleKubelet(h); len(stale) > 0 {
		b.last = b.restartKubelet(h, stale, append(after, b.last)...)
	}
}

// programsInTurn replaces the static pods of a control plane, and its kubelet, if they have other arguments or were stopped by a
// run that was interrupted. It says whether it does.
func (b *builder) programsInTurn(h spec.Host, after []*Step) bool {
	pods, why := b.staleSettings(h)
	switch {
	case b.stopped(h):
		b.replaceControlPlane(h, controlPlanePods, nil, "its API server does not work: "+b.APIServer(h.Name).Problem+b.APIServer(h.Name).Unknown, after)
	case len(pods) > 0:
		b.leaveForReplacement(h, after)
		s := Step{Kind: UpgradeControlPlane, Host: h.Name, Title: "replace the control plane's static pods", Pods: pods, Change: change(cluster.Restart, cluster.APIPrograms, h.Name),
			Reason: reasons(why) + "; its API server, controller manager, scheduler, and kubelet restart, and other containers go on"}
		s.Change.Kubernetes = b.bundle.Version
		at := b.at[h.Name]
		at.controlPlane = b.addInTurn(s, append(after, at.bundle, at.images, at.configure)...)
	default:
		return false
	}
	b.returnFromReplacement(h, after)
	return true
}

// restartKubelet restarts a kubelet with the configuration that the cluster has.
func (b *builder) restartKubelet(h spec.Host, why []string, after ...*Step) *Step {
	at := b.at[h.Name]
	return b.add(Step{Kind: RestartKubelet, Host: h.Name, Title: "restart the kubelet with its new settings", Restart: []string{"kubelet.service"},
		Reason: reasons(why) + "; the kubelet restarts, and containers go on", Change: change(cluster.Restart, cluster.Node, h.Name)}, append(after, at.bundle, at.configure)...)
}

// restartKubelets restarts those of the workers, several at the same time.
func (b *builder) restartKubelets(hosts []spec.Host, after ...*Step) {
	b.inLanes(slices.DeleteFunc(slices.Clone(hosts), func(h spec.Host) bool {
		return h.Has(spec.RoleControlPlane) || !b.joined(h) || len(b.staleKubelet(h)) == 0 || b.plansNode(h)
	}), after, func(h spec.Host, after ...*Step) *Step { return b.restartKubelet(h, b.staleKubelet(h), after...) })
}

// plans says that the plan has a step of a kind on the host.
func (b *builder) plans(kind Kind, h spec.Host) bool {
	return slices.ContainsFunc(b.steps, func(s *Step) bool { return s.Kind == kind && s.Host == h.Name })
}

// plansNode says that the node gets its configuration in another step already.
func (b *builder) plansNode(h spec.Host) bool {
	return b.plans(UpgradeNode, h)
}

// admission are the fields of a kubelet's configuration that decide which pods a node can run.
var admission = []string{"maxPods", "systemReserved", "kubeReserved", "evictionHard", "allowedUnsafeSysctls"}

// checkFit finds nodes that would not run all of their pods with the settings, before anything is changed: a kubelet that starts
// ends the pods that do not fit.
func (b *builder) checkFit() *Step {
	var nodes []string
	for _, h := range b.c.Spec.Hosts {
		if !b.joined(h) {
			continue
		}
		have := b.Facts(h.Name).Kubernetes.Kubelet
		if slices.ContainsFunc(admission, func(field string) bool {
			want, set := b.settings().kubelet[field]
			return set && !hostconfig.SameField(have[field], want)
		}) {
			nodes = append(nodes, h.Name)
		}
	}
	if len(nodes) == 0 || len(b.ofKind(CheckFit)) > 0 {
		return nil
	}
	return b.add(Step{Kind: CheckFit, Title: "check whether the pods still fit on their nodes", Nodes: nodes,
		Reason: "a kubelet that starts ends the pods that it would not admit any more"})
}
