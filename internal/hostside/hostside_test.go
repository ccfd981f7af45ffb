package hostside_test

import (
	"reflect"
	"slices"
	"testing"

	"quorate.dev/quorate/internal/backup"
	"quorate.dev/quorate/internal/distribute"
	"quorate.dev/quorate/internal/encryption"
	"quorate.dev/quorate/internal/host"
	_ "quorate.dev/quorate/internal/hostside"
	"quorate.dev/quorate/internal/hostside/kubeadm"
)

// withoutSecrets are the operations that somebody looked at and found that they send no secret to a host, and that no
// other host relies on what they return. An operation that is in neither list, or has a secret in its request, fails the
// test: it must be defined with host.Secret, so that nothing secret is sent to a host whose key nobody confirmed.
var withoutSecrets = []string{
	"backup.remove-schedule", "backup.report", // names, times, and errors from which credentials were removed
	"bundle.import-images", "bundle.lacking", "bundle.prune-images", "bundle.put", "bundle.verify-images",
	"components.read", "endpoint.dial",
	"drill.put-clients", "drill.read-logs", "drill.remove-clients", // names and addresses, and what clients experienced
	"etcd.claim",                                         // uses the certificate that the host has
	"etcd.snapshot", "etcd.snapshot-size", "etcd.stored", // the same; a snapshot stays on the host, and of stored objects only the keys leave it
	"kubeadm.abandon-join", "kubeadm.await-etcd", "kubeadm.finish-rejoin",
	"lostquorum.abandon", "lostquorum.build", "lostquorum.examine", "lostquorum.finish", "lostquorum.list-data", "lostquorum.note", "lostquorum.put", "lostquorum.set-aside", // names, paths, IDs and numbers
	"lostquorum.start", "lostquorum.start-api", "lostquorum.start-controllers", "lostquorum.stop",
	"kubeadm.admin",                                                                         // returns a secret of the host, which goes nowhere else
	"kubeadm.etcd-client",                                                                   // the same
	"kubeadm.install-certificate",                                                           // a certificate; its key never leaves the host
	"kubeadm.kubelet-restarted", "kubeadm.prepare-kubelet", "kubeadm.restart-with-settings", // a version
	"kubeadm.kubelet-is-due", "kubeadm.move-kubeconfigs", "kubeadm.move-kubelet", "kubeadm.widen-certificate", // names and addresses
	"kubeadm.renew-certificates", "kubeadm.restart-programs", // names of certificates and pods; keys stay on the host
	"kubeadm.set-trust", "kubeadm.renew-authority", "kubeadm.check-member-trust", "kubeadm.forget-authority", "kubeadm.renew-approver", // certificates and public keys
	"kubeadm.register-node", "kubeadm.restart-kubelet", "kubeadm.set-etcd-aside", "kubeadm.set-etcd-servers", "kubeadm.set-etcd-timers", "kubeadm.set-node-labels", "kubeadm.stop-static-pods", "kubeadm.use-local-api",
	"node.balancer", "node.boot-id", "node.clock",
	"node.configure", "node.reconfigure", // files that the spec alone determines, and the CA's certificate
	"node.dial", "node.facts", "node.fsync",
	"node.faults", "node.heal-faults", "node.inject-fault", "node.prepare-faults", // names, addresses, and numbers
	"node.hand-over",
	"node.hush", // what was listened for is known to every host that is asked to dial
	"node.inspect", "node.install-packages", "node.lead", "node.lease", "node.listen", "node.note-maintenance", "node.pause-image", "node.reboot", "node.remove-balancer", "node.reset", "node.retire-balancer", "node.security", "node.set-pool", "node.stand-aside",
	"node.show-files", // nothing that may contain a secret leaves the host
	"node.tokens",     // returns which keys signed tokens, and no token
	"node.start-programs", "node.stop-container", "node.stop-programs", "node.who-has",
	"pod.close", "pod.open", "pod.reach",
	"repairs.begin", "repairs.end", "repairs.journal", // what status says, and errors
	"repairs.free-disk", "repairs.restart-unit",
	"watch.remove", "watch.remove-exporter", // nothing
	"programs.prune", "programs.switch", "programs.switch-running", "programs.tidy", "programs.unpack",
}

// secrets are the types that hold keys or tokens.
var secrets = []reflect.Type{
	reflect.TypeFor[kubeadm.PKI](), reflect.TypeFor[kubeadm.EtcdClient](), reflect.TypeFor[kubeadm.AuthorityPair](), reflect.TypeFor[encryption.Keys](), reflect.TypeFor[distribute.Offer](), reflect.TypeFor[backup.Location](),
}

func TestWhatCarriesSecretsSaysSo(t *testing.T) {
	names := map[string]bool{}
	for _, op := range host.Operations() {
		names[op.Name] = true
		secret := op.Kind&host.Secret != 0
		if secret == slices.Contains(withoutSecrets, op.Name) {
			t.Errorf("%s: either define it with host.Secret, or look at what it carries and add it to the list above", op.Name)
		}
		if holds(op.In, map[reflect.Type]bool{}) && !secret {
			t.Errorf("%s has a secret in its request and is not defined with host.Secret", op.Name)
		}
	}
	for _, name := range withoutSecrets {
		if !names[name] {
			t.Errorf("there is no operation %s", name)
		}
	}
	if len(names) < 40 {
		t.Errorf("only %d operations are linked", len(names))
	}
}

func holds(t reflect.Type, seen map[reflect.Type]bool) bool {
	if slices.Contains(secrets, t) {
		return true
	}
	if seen[t] {
		return false
	}
	seen[t] = true
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array:
		return holds(t.Elem(), seen)
	case reflect.Map:
		return holds(t.Key(), seen) || holds(t.Elem(), seen)
	case reflect.Struct:
		for i := range t.NumField() {
			if holds(t.Field(i).Type, seen) {
				return true
			}
		}
	}
	return false
}
