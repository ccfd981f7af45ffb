package deep

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestKeys(t *testing.T) {
	k := newKeys("")
	all := []string{
		"/quorate.dev/backup-last",
		"/registry/apiregistration.k8s.io/apiservices/v1.",
		"/registry/controllers/default/web",
		"/registry/deployments/default/web",
		"/registry/example.com/widgets/default/a", "/registry/example.com/widgets/default/b",
		"/registry/health",
		"/registry/masterleases/10.0.0.1",
		"/registry/minions/cp-a",
		"/registry/podsecuritypolicy/old",
		"/registry/ranges/serviceips",
		"/registry/secrets/default/kms",
		"/registry/services/endpoints/default/kubernetes", "/registry/services/specs/default/kubernetes",
		"compact_rev_key",
	}
	for _, key := range all {
		value := []byte("k8s\x00")
		if strings.HasSuffix(key, "/kms") {
			value = []byte("k8s:enc:kms:v2:vault:x")
		}
		k.add(key, value)
	}
	if len(k.kms) != 1 || k.kms["/registry/secrets/default/kms"] != "k8s:enc:kms:v2:vault:" {
		t.Errorf("of a KMS provider: %v", k.kms)
	}
	for _, c := range []struct {
		group, resource, namespace, name string
		custom, want                     bool
	}{
		{"", "nodes", "", "cp-a", false, true},
		{"", "services", "default", "kubernetes", false, true},
		{"", "endpoints", "default", "kubernetes", false, true},
		{"", "replicationcontrollers", "default", "web", false, true},
		{"apps", "deployments", "default", "web", false, true},
		{"apiregistration.k8s.io", "apiservices", "", "v1.", false, true},
		{"", "secrets", "default", "kms", false, true},
		{"example.com", "widgets", "default", "a", true, true},
		{"example.com", "deployments", "default", "web", true, false}, // it is not that of apps
		{"", "pods", "default", "web", false, false},
	} {
		if got := k.claim(placesOf(c.group, c.resource, c.custom), c.namespace, c.name); got != c.want {
			t.Errorf("%+v: %t", c, got)
		}
	}
	widgets := placesOf("example.com", "widgets", true)
	if got := k.left(widgets, true); !slices.Equal(got, []string{"/registry/example.com/widgets/default/b"}) {
		t.Errorf("left: %v", got)
	}
	if got := k.left(widgets, false); len(got) > 0 {
		t.Errorf("left without namespaces: %v", got)
	}
	out, internal := k.unclaimed()
	want := []Unclaimed{
		{"/quorate.dev", 1, "/quorate.dev/backup-last"},
		{"/registry/example.com/widgets", 1, "/registry/example.com/widgets/default/b"},
		{"/registry/podsecuritypolicy", 1, "/registry/podsecuritypolicy/old"},
	}
	if !reflect.DeepEqual(out, want) || internal != 4 {
		t.Errorf("%d internal, and %+v", internal, out)
	}
}

func TestPreferred(t *testing.T) {
	r := func(group, version, name string) resource {
		return resource{GroupVersionResource: schema.GroupVersionResource{Group: group, Version: version, Resource: name}}
	}
	got := preferred([]resource{r("autoscaling", "v2", "hpas"), r("", "v1", "pods"), r("autoscaling", "v1", "hpas"), r("autoscaling", "v1", "others")})
	var names []string
	for _, r := range got {
		names = append(names, r.GroupVersionResource.String())
	}
	if want := []string{"autoscaling/v2, Resource=hpas", "autoscaling/v1, Resource=others", "/v1, Resource=pods"}; !slices.Equal(names, want) {
		t.Errorf("%q", names)
	}
}

func TestTheStoredVersionIsRead(t *testing.T) {
	var d definition
	d.Spec.Versions = append(d.Spec.Versions, struct {
		Name    string `json:"name"`
		Served  bool   `json:"served"`
		Storage bool   `json:"storage"`
	}{"v1alpha1", true, false})
	v := d.Spec.Versions[0]
	if got := d.version(); got != "v1alpha1" {
		t.Error(got)
	}
	v.Name, v.Storage = "v1", true
	d.Spec.Versions = append(d.Spec.Versions, v)
	v.Name, v.Storage = "v2", false
	d.Spec.Versions = append(d.Spec.Versions, v)
	if got := d.version(); got != "v1" {
		t.Error(got)
	}
	d.Spec.Versions[1].Served = false
	if got := d.version(); got != "v1alpha1" {
		t.Error(got)
	}
}

func TestHowToGetTheBundle(t *testing.T) {
	t.Setenv("QUORATE_CACHE", t.TempDir())
	for version, want := range map[string]string{
		"":         "does not say which version",
		"v1.36.1":  "quorate bundle build --kubernetes-version v1.36.3",
		"v1.12.10": "quorate bundle import FILE",
	} {
		if _, err := BundleFor(version); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", version, err)
		}
	}
}

func TestVerdict(t *testing.T) {
	r := Report{Kinds: []Kind{{Resource: "pods", Objects: 3}}, Unclaimed: []Unclaimed{{Below: "/x", Keys: 1}}, NotServed: []NotServed{{What: "y"}}}
	if err := r.Err(); err != nil {
		t.Error(err)
	}
	r.Kinds = append(r.Kinds, Kind{Resource: "secrets", Unreadable: []Unreadable{{Key: "k"}, {Key: "l"}}})
	if err := r.Err(); err == nil || !strings.Contains(err.Error(), "2 objects of 1 kind") {
		t.Error(err)
	}
	r.Kinds[1] = Kind{Resource: "secrets", Error: "no"}
	if err := r.Err(); err == nil || !strings.Contains(err.Error(), "cannot list 1 kind") {
		t.Error(err)
	}
}

func TestTheServerCannotReachTheCluster(t *testing.T) {
	args := arguments("/dir", "unix:///dir/client", 1234, map[string]string{"etcd-servers": "https://10.0.0.1:2379", "oidc-issuer-url": "https://idp", "runtime-config": "api/all=true", "feature-gates": "A=true"}, true)
	for _, a := range args {
		if strings.Contains(a, "10.0.0.1") || strings.Contains(a, "idp") {
			t.Errorf("%s leads to the cluster", a)
		}
	}
	for _, want := range []string{"--runtime-config=api/all=true", "--feature-gates=A=true", "--encryption-provider-config=/dir/encryption.yaml", "--bind-address=127.0.0.1", "--anonymous-auth=false"} {
		if !slices.Contains(args, want) {
			t.Errorf("no %s in %q", want, args)
		}
	}
}
