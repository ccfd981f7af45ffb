package run

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	utilversion "k8s.io/apimachinery/pkg/util/version"

	"quorate.dev/quorate/internal/backup"
	"quorate.dev/quorate/internal/bundle"
	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/endpoint"
	"quorate.dev/quorate/internal/facts"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/hostside/kubeadm"
	"quorate.dev/quorate/internal/hostside/pkifile"
	"quorate.dev/quorate/internal/hostside/reset"
	"quorate.dev/quorate/internal/observe"
	"quorate.dev/quorate/internal/plan"
	"quorate.dev/quorate/internal/render/hostconfig"
	"quorate.dev/quorate/internal/snapshot"
	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/step"
)

// RuleFitsBackup wants the spec of a restore to be one that the content of the backup can run with.
const RuleFitsBackup = "fits-backup"

// RestoreOptions say what is restored, and what the caller allows.
type RestoreOptions struct {
	// Backup was verified, and File is what it is called.
	Backup backup.Unpacked
	File   string
	// KeysDir has keys that the backup does not have, such as that of an offline CA; empty if there are none.
	KeysDir string
	// Salvaged says that Backup was made of a member's data (see Salvage), and PKI are the keys that are left; it is nil for a backup. FormerCA is
	// the CA of the cluster that the data are of, if that is known.
	Salvaged *Salvaged
	PKI      map[string][]byte
	FormerCA string
	// Begin is called with the plan before anything is changed, unless Confirm was, or the restore began earlier; nil if nobody is asked.
	Begin func(*Work) error
	// Ignore are the IDs of preflight checks whose findings do not stop the run.
	Ignore []string
	// Replace is whether a cluster on the hosts may be reset. Confirm is called before that with the plan of the reset; an error ends the
	// run.
	Replace bool
	Confirm func(*Work) error
	// Lab says that the hosts are those of a lab that copies the cluster: it may have another name and another source of its pod network,
	// and the hosts in the backup are not contacted.
	Lab bool
}

// Restored is what a restore did.
type Restored struct {
	Cluster string `json:"cluster"`
	File    string `json:"backup"`
	// Taken is when the backup was taken: everything that was written later is lost.
	Taken time.Time `json:"taken"`
	// Data says what the data of a member were, if it was no backup, and what was lost with them.
	Data *Salvaged `json:"data,omitempty"`
	Lost []string  `json:"lost,omitempty"`
	// Revision is that of etcd in the backup, and FirstRevision the one before which clients that watch must list again.
	Revision      int64 `json:"revision"`
	FirstRevision int64 `json:"firstRevision"`
	Keys          int64 `json:"keys"`
	// Repaired is what the API had of hosts that are no longer there, and Notes are what somebody has to look at.
	Repaired []string `json:"repaired"`
	Notes    []string `json:"notes"`
	// Kept is where each host of a cluster that was replaced has the etcd data and the keys of that cluster; empty if none was replaced.
	Kept string        `json:"kept,omitempty"`
	Took time.Duration `json:"tookNanoseconds"`
}

// clockTolerance is more than what the clocks of two machines that are synchronized differ.
const clockTolerance = 10 * time.Minute

// clockFits refuses a clock that shows a time before that of the backup: the revision at which the new cluster begins follows from it (see
// snapshot.BumpAt).
func clockFits(now, created time.Time) error {
	if now.Add(clockTolerance).After(created) {
		return nil
	}
	return &cluster.Refusal{Rule: RuleFitsBackup, Why: fmt.Sprintf("the clock of this machine shows %s, and the backup was taken at %s: revisions could begin at those that clients have seen", now.UTC().Format(time.RFC3339), created.UTC().Format(time.RFC3339)),
		Fix: "Set the clock of this machine, or use another one. Nothing was changed."}
}

// expiredAuthority refuses a backup whose cluster nobody would accept: an authority has expired since.
func expiredAuthority(pki map[string][]byte, now time.Time) *cluster.Refusal {
	for _, a := range facts.Authorities {
		for _, at := range pkifile.Expiries(pki[a.Public()]) {
			if !at.After(now) {
				return &cluster.Refusal{Rule: RuleFitsBackup, Why: fmt.Sprintf("the certificate of %s in the backup expired on %s, and nobody accepts what it signs", a.Title(), at.Format(time.DateOnly)),
					Fix: "Renew it with its key, which is in the backup or where you keep it, as docs/certificates.md says (\"An authority that has expired\"), put it into a directory as " + a.Public() + ", and name that with --keys. Nothing was changed."}
			}
		}
	}
	return nil
}

// inRotation says what follows from a backup that was taken while an authority was being replaced.
func inRotation(a facts.Authority) string {
	if a == facts.ServiceAccountKey {
		return "the backup was taken while the service account key was being replaced: the key that signed then signs, and tokens of the one before stay valid. If `quorate certs` shows the rotation, `quorate certs rotate sa` ends it"
	}
	return fmt.Sprintf("the backup was taken while %s was being replaced: the restored cluster has the key that signed then, and trusts nothing that the other one signed. `quorate certs rotate %s` replaces it again", a.Title(), a)
}

// Restore builds the cluster of the spec from a backup. It changes nothing before everything was checked. A run that was interrupted is
// finished by the same call with the same backup.
func (e *Engine) Restore(ctx context.Context, b *bundle.Bundle, o RestoreOptions) (_ *Restored, err error) {
	begin, m := time.Now(), o.Backup.Manifest
	out := &Restored{Cluster: e.Cluster.Metadata.Name, File: o.File, Taken: m.Created, Revision: m.Etcd.Revision, Keys: m.Etcd.Keys, Data: o.Salvaged}
	if o.Salvaged != nil {
		out.Lost = o.Salvaged.Costs()
	}
	defer func() {
		if err != nil && out.Kept != "" {
			err = fmt.Errorf("the cluster before was reset, and its etcd data and keys are kept on its hosts in %s; the restore did not end: %w", out.Kept, err)
		}
	}()
	described, _, err := Describe(e.Cluster, bundle.Set{b})
	if err != nil {
		return nil, err
	}
	before, err := o.Backup.Spec()
	if err != nil {
		return nil, err
	}
	if err := Fits(e.Cluster, described.Etcd, o, before); err != nil {
		return nil, err
	}
	if err := clockFits(begin, m.Created); err != nil {
		return nil, err
	}
	if dir, err := filepath.Abs(o.KeysDir); o.Replace && o.KeysDir != "" && (err != nil || reset.Removes(dir)) {
		return nil, &cluster.Refusal{Rule: RuleFitsBackup, Why: "a reset of this machine would remove the keys in " + o.KeysDir, Fix: "Copy the directory elsewhere first (`cp -a`), such as to /root, and name the copy. Nothing was changed."}
	}
	pki := o.PKI
	if o.Salvaged == nil {
		if pki, err = o.Backup.PKI(o.KeysDir); err != nil {
			return nil, &cluster.Refusal{Rule: RuleFitsBackup, Why: err.Error(), Fix: "Nothing was changed. docs/restoring.md says what a restore needs."}
		}
	}
	if r := expiredAuthority(pki, begin); r != nil {
		return nil, r
	}
	for _, a := range o.Backup.InRotation() {
		out.Notes = append(out.Notes, inRotation(a))
	}
	r := &step.Restoration{Manifest: m, PKI: kubeadm.PKI(pki), Snapshot: o.Backup.Snapshot, Before: before, Fenced: o.Lab}
	from := facts.Restore{Cluster: e.Cluster.Metadata.Name, Backup: m.ID(), File: o.File, Taken: m.Created.UTC(), EtcdCluster: m.Etcd.ClusterID, Revision: m.Etcd.Revision,
		Data: o.Salvaged != nil, NewKeys: len(pki) == 0}
	nonce := newNonce()
	decide := func(s *cluster.State, described plan.Bundle) (*plan.Plan, error) {
		from := begunAs(from, s.RestoreBegun(from.Backup), time.Now(), nonce)
		r.Bump, r.Nonce, out.FirstRevision = from.Bump, from.Nonce, m.Etcd.Revision+from.Bump
		return plan.Restore(s, described, from, r.PKI.CA())
	}
	if err := e.takeLeases(ctx, e.Cluster.Spec.Hosts); err != nil {
		return nil, err
	}
	w, err := e.decideWith(ctx, b, decide)
	if Replaceable(err) && o.Replace {
		if err := whole(ctx, w.bundles); err != nil { // before anything is given up
			return nil, err
		}
		if out.Kept, err = e.replace(ctx, o, func(s *cluster.State) error {
			if _, err := decide(cluster.Evaluate(e.Cluster, cluster.Emptied(s.Seen)), w.described); err != nil {
				return err
			}
			return e.checkReplacement(ctx, s, snapshotBytes(m), o.Ignore)
		}); err != nil {
			return nil, err
		}
		w, err = e.decideWith(ctx, b, decide)
	}
	if err != nil {
		return nil, err
	}
	if why := e.runsElsewhere(ctx, w.State, formerServers(before, e.Cluster, m.Etcd.Members), cmp.Or(r.PKI.CA(), o.FormerCA), o.kind(), o.Lab); why != "" {
		if !o.Replace {
			return nil, &cluster.Refusal{Rule: plan.RuleNoClusterThere, Why: why,
				Fix: "Stop it first: reset its hosts with their own spec (`quorate reset --all`), or power them off. Two clusters with the same keys would both accept clients. To restore it all the same, add `--replace-cluster " + e.Cluster.Metadata.Name + "`. Nothing was changed."}
		}
		out.Notes = append(out.Notes, why+". Stop it: clients and kubelets that know its addresses still use it")
	}
	e.restoration = r
	defer func() { e.restoration = nil }()
	// The first pass builds the cluster. If an earlier run was interrupted late, the next ones end what it had begun.
	for pass := 1; ; pass++ {
		if err := e.Check(ctx, w, o.Ignore); err != nil {
			return nil, err
		}
		if err := w.sound(ctx); err != nil {
			return nil, err
		}
		if o.Begin != nil && out.Kept == "" && pass == 1 && w.State.RestoreBegun(from.Backup) == nil {
			if err := o.Begin(w); err != nil {
				return nil, err
			}
		}
		if err := e.execute(ctx, w.Plan, w); err != nil {
			return nil, err
		}
		if marks, _ := e.State(ctx).Restores(); len(marks) == 0 {
			break
		} else if pass == passes {
			return nil, errors.New("the restore did not end: run the same command again")
		}
		if w, err = e.decideWith(ctx, b, decide); err != nil {
			return nil, err
		}
	}
	if err := e.settle(ctx, b); err != nil {
		return nil, err
	}
	e.tidy(ctx)
	out.Repaired, out.Notes = append([]string{}, r.Repaired()...), append(append([]string{}, out.Notes...), r.Notes()...)
	out.Notes = append(out.Notes, leftHosts(before, e.Cluster, o.Lab)...)
	out.Took = time.Since(begin)
	return out, nil
}

// newNonce is different each time.
func newNonce() string { return strings.ToLower(rand.Text()[:16]) }

// begunAs completes what is noted of a restore. One that began goes on with the revision and the nonce with which members may have been restored; every
// other one begins at later revisions, and as another etcd.
func begunAs(from facts.Restore, begun *facts.Restore, now time.Time, nonce string) facts.Restore {
	if from.Bump, from.Nonce = snapshot.BumpAt(now, from.Revision), nonce; begun != nil {
		from.Bump, from.Nonce = begun.Bump, begun.Nonce
	}
	return from
}

// Restored says that the hosts have the cluster that was restored from a backup, and that the restore ended.
func (e *Engine) Restored(ctx context.Context, m backup.Manifest) bool {
	return plan.Restored(e.State(ctx), m.ID())
}

// passes bounds how often a plan is made in one run of a restore.
const passes = 3

// settle makes the restored cluster match its spec in what its first build does not look at, such as labels that the backup has.
func (e *Engine) settle(ctx context.Context, b *bundle.Bundle) error {
	for pass := 1; ; pass++ {
		w, err := e.Plan(ctx, b)
		if err != nil {
			return err
		}
		done := w.Plan.Empty()
		if !done && pass == passes {
			return errors.New("the restored cluster works, and something is left to do: run `quorate apply`")
		}
		if !done || len(w.Plan.Unmet) > 0 { // what is unmet may pass
			if err := e.execute(ctx, w.toRun(), w); err != nil {
				return err
			}
		}
		if len(w.Plan.Unreachable) > 0 {
			return &UnreachableError{w.Plan.Unreachable, "quorate apply"}
		}
		if done {
			return nil
		}
	}
}

// Replaceable says that a restore was refused because of a cluster on its hosts that can be given up.
func Replaceable(err error) bool {
	r, refused := errors.AsType[*cluster.Refusal](err)
	return refused && slices.Contains([]string{plan.RuleNoClusterThere, plan.RuleBackupsCA, cluster.RuleUnfinishedRestore}, r.Rule)
}

// snapshotBytes is the size of the snapshot of etcd in a backup.
func snapshotBytes(m backup.Manifest) int64 {
	part, _ := m.Part(backup.SnapshotPart)
	return part.Bytes
}

// replace resets the hosts of a cluster that is given up, and keeps what it had stored. It returns where, also if it failed after it had
// begun. Before anything is changed, check says whether the cluster of the backup can be built there. It then connects
// to the hosts again, because a reset also removes Quorate from them.
func (e *Engine) replace(ctx context.Context, o RestoreOptions, check func(*cluster.State) error) (kept string, _ error) {
	w, err := e.decide(ctx, plan.ResetAll)
	if more := e.others(); err == nil && len(more.Departing)+len(more.Removed) > 0 {
		if err := e.takeLeases(ctx, slices.Concat(more.Departing, more.Removed)); err != nil {
			return "", err
		}
		w, err = e.decide(ctx, plan.ResetAll)
	}
	if err != nil {
		return "", err
	}
	if why := w.State.Unreachable(); len(why) > 0 {
		return "", &cluster.Refusal{Rule: plan.RuleAllHosts, Why: "some hosts cannot be reached: " + strings.Join(slices.Sorted(maps.Keys(why)), ", "), Fix: "Bring them up. Nothing was changed."}
	}
	if err := check(w.State); err != nil {
		return "", err
	}
	name := e.Cluster.Metadata.Name + "-" + time.Now().UTC().Format("20060102T150405Z")
	plan.KeepReplaced(w.Plan, name)
	if err := o.Confirm(w); err != nil {
		return "", err
	}
	kept = facts.KeptDir + "/" + name
	if err := e.execute(ctx, w.Plan, w); err != nil {
		return kept, err
	}
	return kept, e.reopen(ctx)
}

// reopen connects to the hosts again, and forgets what was learned of them.
func (e *Engine) reopen(ctx context.Context) error {
	e.Conns.Close()
	e.mu.Lock()
	e.Conns = host.DialAll(ctx, noticed(Targets(e.Cluster), e.Progress))
	e.more, e.record, e.removed, e.reached = observe.Hosts{}, "", "", spec.Endpoint{}
	e.mu.Unlock()
	return e.takeLeases(ctx, e.Cluster.Spec.Hosts)
}

// formerServers are the addresses that the spec does not have, and at which API servers of the cluster in a backup, or in data, may run: those of its control
// planes and, because its spec may be lost, of its members of etcd, which have API servers next to them where etcd is stacked.
func formerServers(before, after *spec.Cluster, members []backup.Member) (out []spec.Host) {
	add := func(name, address string) {
		same := func(h spec.Host) bool { return slices.Contains(h.Addresses(), address) }
		if address != "" && !slices.ContainsFunc(after.Spec.Hosts, same) && !slices.ContainsFunc(out, same) {
			out = append(out, spec.Host{Name: name, Address: address})
		}
	}
	if before != nil {
		for _, h := range before.HostsWith(spec.RoleControlPlane) {
			add(h.Name, h.Address)
		}
	}
	for _, m := range members {
		for _, peer := range m.PeerURLs {
			if u, err := url.Parse(peer); err == nil {
				add(cmp.Or(m.Name, m.ID), u.Hostname())
			}
		}
	}
	return out
}

// runsElsewhere says that the cluster of the backup runs, or may run, at addresses that are not in the spec; empty if it does not. Without
// a session to one of the hosts, nobody can tell, and nothing could be restored either. Without a CA, whoever answers there may be that cluster.
func (e *Engine) runsElsewhere(ctx context.Context, s *cluster.State, former []spec.Host, ca, kind string, lab bool) string {
	if len(former) == 0 || lab {
		return ""
	}
	marks, _ := s.Restores()
	if len(marks) > 0 {
		return "" // it was asked before this restore began
	}
	var c *host.Conn
	for _, h := range e.Cluster.HostsWith(spec.RoleControlPlane) {
		if conn, err := e.Conns.Get(h.Name); err == nil {
			c = conn
			break
		}
	}
	if c == nil {
		return ""
	}
	ours, others := make([]string, len(former)), make([]string, len(former))
	var wg sync.WaitGroup
	for i, h := range former {
		wg.Go(func() {
			if ca != "" && observe.APIServer(ctx, c, h, apiServerName, ca).OK {
				ours[i] = h.Name + " (" + h.Address + ")"
				return
			}
			a, err := endpoint.Dial.On(ctx, c, endpoint.Request{Name: apiServerName, Address: h.Address, Port: hostconfig.APIPort, CA: ca, Timeout: elsewhereTimeout, Connections: 1})
			if err == nil && a.Outcome == endpoint.Stranger {
				others[i] = h.Name + " (" + h.Address + "): " + a.Detail
			}
		})
	}
	wg.Wait()
	none := func(text string) bool { return text == "" }
	return stillRuns(slices.DeleteFunc(ours, none), slices.DeleteFunc(others, none), kind, ca != "")
}

const (
	// apiServerName is in the certificate of every API server, whatever the endpoint was called when it was signed.
	apiServerName = "kubernetes"
	// elsewhereTimeout is how long a server may take that may be one of the cluster in a backup.
	elsewhereTimeout = 5 * time.Second
)

// stillRuns says what was found at the addresses of the control planes in a backup, or in data: API servers of its CA, and servers with other
// certificates, each with its certificate. Where no CA is known, nobody can tell whose these are.
func stillRuns(ours, others []string, kind string, known bool) string {
	of := "the cluster that the backup was taken of"
	if kind != "backup" {
		of = "the cluster that the " + kind + " are of"
	}
	var out []string
	if len(ours) > 0 {
		out = append(out, of+" still runs: its API answers on "+strings.Join(ours, ", ")+", which is not in the spec")
	}
	switch found := strings.Join(others, "; "); {
	case len(others) == 0:
	case known:
		out = append(out, of+" may still run. Where it had control planes that are not in the spec, a server answers with a certificate that is not valid by the CA in the "+kind+": "+
			found+". Either the CA was replaced since (`quorate certs rotate ca`), or another cluster has the address now")
	default:
		out = append(out, of+" may still run. Where it had control planes that are not in the spec, a server answers, and no CA is left that could tell whose it is: "+found)
	}
	return strings.Join(out, "; ")
}

// leftHosts names the hosts in the backup that the spec does not have. Nobody knows whether they still run.
func leftHosts(before, after *spec.Cluster, lab bool) []string {
	if before == nil || lab {
		return nil
	}
	var names []string
	for _, h := range before.Spec.Hosts {
		if !slices.ContainsFunc(after.Spec.Hosts, h.SharesAddress) {
			names = append(names, h.Name+" ("+h.Address+")")
		}
	}
	if len(names) == 0 {
		return nil
	}
	return []string{"these hosts of the backup are not in the spec: " + strings.Join(names, ", ") + ". If one of them is still on, or comes back, reset it before it reaches the endpoint: its kubelet has a certificate that is valid here"}
}

// kind is what is restored: a backup, or data.
func (o RestoreOptions) kind() string { return facts.Restore{Data: o.Salvaged != nil}.Kind() }

// Fits refuses a spec with which the content of a backup could not run. Etcd is the version that the bundle has.
func Fits(c *spec.Cluster, etcd string, o RestoreOptions, before *spec.Cluster) error {
	m, kind := o.Backup.Manifest, o.kind()
	refuse := func(why, fix string) error {
		return &cluster.Refusal{Rule: RuleFitsBackup, Why: why, Fix: fix + " Nothing was changed."}
	}
	if c.ExistingEtcd() {
		return refuse("etcd of this spec is your own ("+strings.Join(c.Spec.Etcd.Endpoints, ", ")+"), and Quorate never stops it or replaces its data",
			"Unpack the backup (docs/backup.md), stop your etcd, restore etcd/snapshot.db on all of its members (`etcdutl snapshot restore --bump-revision 10000000000 --mark-compacted`), start it, put the keys below kubernetes/pki on the first control plane, and run `quorate apply`. Or restore to an etcd that Quorate manages.")
	}
	if named := o.Salvaged == nil || m.Cluster.Name != ""; named && !o.Lab && c.Metadata.Name != m.Cluster.Name {
		return refuse(fmt.Sprintf("the %s is of the cluster %s, and the spec of %s", kind, m.Cluster.Name, c.Metadata.Name), "Use the spec of that cluster (metadata.name), or another "+kind+".")
	}
	if before != nil {
		for _, d := range plan.DiffersFixed(before, c) {
			if o.Lab && (d.Path == "metadata.name" || d.Path == "spec.network.cni") {
				continue
			}
			return refuse("the spec differs from that of the "+kind+" in what is stored in etcd: "+d.String(), "Put the value of the "+kind+" into the spec.")
		}
	}
	stored, err := o.Backup.Networking()
	if err != nil {
		return err
	}
	for _, d := range []struct{ field, have, want string }{
		{"network.podCIDR", stored.PodSubnet, c.Spec.Network.PodCIDR}, {"network.serviceCIDR", stored.ServiceSubnet, c.Spec.Network.ServiceCIDR}, {"the domain of Services", stored.DNSDomain, "cluster.local"},
	} {
		if d.have != "" && d.have != d.want {
			return refuse(fmt.Sprintf("%s is %s in the %s, and %s in the spec: nodes and Services in etcd have addresses of the first", d.field, d.have, kind, d.want), "Put the value of the "+kind+" into the spec.")
		}
	}
	switch have, want := minor(m.Cluster.Kubernetes), minor(c.Spec.Kubernetes.Version); {
	case have < 0 || want < 0:
	case have != want:
		return refuse(fmt.Sprintf("the %s is of Kubernetes %s, and the spec says %s", kind, m.Cluster.Kubernetes, c.Spec.Kubernetes.Version),
			fmt.Sprintf("A cluster is restored with the same minor release, because API servers of another one may not read all objects: set kubernetes.version to a v1.%d release, and change it with `quorate apply` afterwards.", have))
	}
	switch have, want := minor(m.Etcd.Version), minor(etcd); {
	case have < 0 || want < 0:
	case want < have || want > have+1:
		return refuse(fmt.Sprintf("the %s is of etcd %s, and the bundle has %s", kind, m.Etcd.Version, etcd), "etcd reads data of its own minor release and of the one before: choose a Kubernetes version whose bundle has such an etcd.")
	}
	return nil
}

// minor is the minor release of a version; negative if it is none.
func minor(text string) int {
	v, err := utilversion.ParseGeneric(text)
	if err != nil {
		return -1
	}
	return int(v.Minor())
}
