package certs

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/cluster"
	"quorate.dev/quorate/internal/cluster/clustertest"
	"quorate.dev/quorate/internal/facts"
)

func TestReport(t *testing.T) {
	f := clustertest.Whole()
	year := func(name string, left time.Duration) facts.Certificate {
		end := clustertest.Now.Add(left)
		return facts.Certificate{Name: name, Issuer: "kubernetes", Begins: end.AddDate(-1, 0, 0), Expires: end, Written: clustertest.Now.Add(-time.Hour)}
	}
	const day = 24 * time.Hour
	for _, host := range []string{"cp-a", "cp-b", "cp-c"} {
		k := f.Kubernetes(host)
		k.EtcdCAKey = true
		k.Certificates = []facts.Certificate{{Name: facts.ClusterCA, CA: true, Issuer: "kubernetes", Expires: clustertest.Now.AddDate(9, 0, 0)}, year("pki/apiserver.crt", 100*day),
			year("scheduler.conf", 300*day), year("pki/etcd/peer.crt", 300*day), year(facts.KubeletClient, 300*day)}
		f.Change(host, func(h *facts.Host) { h.Facts.Time = clustertest.Now })
	}
	f.Kubernetes("cp-a").Certificates[3].Expires = clustertest.Now.Add(-time.Hour)
	for _, host := range []string{"cp-a", "cp-b", "cp-c"} {
		f.Kubernetes(host).MissingPKI = []string{"ca.key"}
	}
	f.Seen.Hosts["cp-b"].Components[facts.Scheduler] = facts.Component{Answer: clustertest.OK(), Started: clustertest.Now.Add(-2 * time.Hour)}
	for _, host := range []string{"cp-a", "cp-b", "cp-c"} {
		f.Kubernetes(host).Trust = map[facts.Authority]facts.Trust{facts.ServiceAccountKey: {Trusted: []string{"old", "new"}, Key: "old", Next: "new", Written: clustertest.Now.Add(-time.Hour)}}
		f.Change(host, func(h *facts.Host) {
			h.Started = map[string]time.Time{facts.APIServer: clustertest.Now.Add(-time.Minute)}
		})
	}
	f.Change("cp-b", func(h *facts.Host) { h.Started = nil })
	f.Dies("w-b")
	hooks := []facts.WebhookCertificates{
		{Kind: "APIService", Name: "v1beta1.metrics.k8s.io", Server: "kube-system/metrics:443", Serving: &facts.Certificate{Expires: clustertest.Now.Add(5*day + time.Hour)}},
		{Kind: "ValidatingWebhookConfiguration", Name: "policy", Part: "p.example.com", Server: "https://p.example.com", Unknown: "no answer"},
	}
	s := cluster.Evaluate(f.Spec, f.Seen)
	r := Of(s, hooks, nil)

	find := func(host, name string) Certificate {
		i := slices.IndexFunc(r.Certificates, func(c Certificate) bool { return c.Host == host && c.Name == name })
		if i < 0 {
			t.Fatalf("%s on %s is missing in %+v", name, host, r.Certificates)
		}
		return r.Certificates[i]
	}
	if c := find("cp-a", "pki/etcd/peer.crt"); c.DaysLeft != -1 || !c.Due || c.KeyMissing || c.RenewedBy != cluster.ByQuorate || c.File != "/etc/kubernetes/pki/etcd/peer.crt" {
		t.Errorf("%+v", c)
	}
	if c := find("cp-a", "pki/apiserver.crt"); c.DaysLeft != 100 || !c.Due || !c.KeyMissing {
		t.Errorf("%+v", c)
	}
	if c := find("cp-b", "scheduler.conf"); c.Due || !slices.Equal(c.Restarts, []string{facts.Scheduler}) || !slices.Equal(c.Outdated, []string{facts.Scheduler}) {
		t.Errorf("%+v", c)
	}
	if c := find("cp-c", "scheduler.conf"); len(c.Outdated) > 0 {
		t.Errorf("nobody knows when it was started: %+v", c)
	}
	if c := find("cp-a", facts.ClusterCA); !c.CA || c.RenewedBy != cluster.ByOwner {
		t.Errorf("%+v", c)
	}
	if c := find("cp-a", facts.KubeletClient); c.RenewedBy != cluster.ByKubelet || c.File != "/var/lib/kubelet/pki/kubelet-client-current.pem" {
		t.Errorf("%+v", c)
	}
	if !slices.Equal(r.OfflineKeys, []string{facts.ClusterCA}) || r.Unknown["w-b"] == "" || len(r.Unknown) != 1 {
		t.Errorf("offline %v, unknown %v", r.OfflineKeys, r.Unknown)
	}
	if len(r.Rotations) != 1 || r.Rotations[0].Authority != facts.ServiceAccountKey || r.Rotations[0].Stage != cluster.TrustStage || !strings.Contains(r.Rotations[0].Progress, "kube-apiserver on cp-b may not have read") {
		t.Errorf("%+v", r.Rotations)
	}
	if r.Webhooks[0].DaysLeft == nil || *r.Webhooks[0].DaysLeft != 5 || r.Webhooks[1].DaysLeft != nil {
		t.Errorf("%+v", r.Webhooks)
	}

	var text bytes.Buffer
	if err := Text(&text, r); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"cp-a, cp-b, cp-c", "expired on", "the kubelet", "you: `quorate certs rotate ca`", "its authority's key is not on the host", "w-b are unknown", "kube-scheduler on cp-b still uses", "unknown: no answer", "An offline CA",
		"The rotation of the service account key is in its stage \"trust\": kube-apiserver on cp-b", "`quorate certs rotate sa`"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("%q is missing in\n%s", want, &text)
		}
	}
	if Of(s, nil, errors.New("no API server answers")).Unknown["webhooks"] != "no API server answers" {
		t.Error("it does not say why webhooks are unknown")
	}
}

// TestAnAuthorityThatHasExpired is due where its key is on a host, and the user's where it is not.
func TestAnAuthorityThatHasExpired(t *testing.T) {
	for name, key := range map[string]string{"quorate: it has expired": "key", "you: it has expired, and its key is on no host": ""} {
		f := clustertest.Whole()
		for _, host := range []string{"cp-a", "cp-b", "cp-c"} {
			k := f.Kubernetes(host)
			k.Certificates = []facts.Certificate{{Name: facts.ClusterCA, CA: true, Issuer: "kubernetes", Expires: clustertest.Now.Add(-time.Hour)}}
			k.Trust = map[facts.Authority]facts.Trust{facts.KubernetesAuthority: {Trusted: []string{"key"}, Key: key, Until: clustertest.Now.Add(-time.Hour)}}
		}
		r := Of(cluster.Evaluate(f.Spec, f.Seen), nil, nil)
		var text bytes.Buffer
		if err := Text(&text, r); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(text.String(), name) {
			t.Errorf("%q is missing in\n%s", name, &text)
		}
		for _, c := range r.Certificates {
			if c.Name == facts.ClusterCA && (c.Due != (key != "") || c.KeyMissing != (key == "") || c.DaysLeft != -1) {
				t.Errorf("%+v", c)
			}
		}
	}
}

// TestAnAuthorityThatExpiredOnAHostInMaintenance is renewed when the maintenance ends, and apply leaves it.
func TestAnAuthorityThatExpiredOnAHostInMaintenance(t *testing.T) {
	f := clustertest.Whole()
	for _, host := range []string{"cp-a", "cp-b", "cp-c"} {
		k, end := f.Kubernetes(host), clustertest.Now.AddDate(9, 0, 0)
		if host == "cp-b" {
			end = clustertest.Now.Add(-time.Hour)
		}
		k.Certificates = []facts.Certificate{{Name: facts.ClusterCA, CA: true, Issuer: "kubernetes", Expires: end}}
		k.Trust = map[facts.Authority]facts.Trust{facts.KubernetesAuthority: {Trusted: []string{"key"}, Key: "key", Until: end}}
	}
	f.Seen.API.Maintenance = map[string]facts.Maintenance{"cp-b": {Ready: true}}
	r := Of(cluster.Evaluate(f.Spec, f.Seen), nil, nil)
	var text bytes.Buffer
	if err := Text(&text, r); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(text.String(), "quorate, when the maintenance of the host ends") {
		t.Error(&text)
	}
	if c := r.Certificates[0]; c.Host != "cp-b" || c.Due || c.KeyMissing {
		t.Errorf("%+v", c)
	}
}
