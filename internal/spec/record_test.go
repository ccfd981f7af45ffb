package spec

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestRecordRoundTrip(t *testing.T) {
	for name, c := range map[string]*Cluster{
		"every field":   full(),
		"stacked":       mustParse(t, real),
		"etcd hosts":    mustParse(t, edit(t, real, managedEtcd...)),
		"existing etcd": mustParse(t, edit(t, real, existingEtcd...)),
		"lab":           DefaultLab("x"),
	} {
		t.Run(name, func(t *testing.T) {
			data, err := NewRecord(c).Marshal()
			if err != nil {
				t.Fatal(err)
			}
			r, err := ParseRecord(data)
			if err != nil {
				t.Fatalf("%v\n%s", err, data)
			}
			if got := r.Compare(c); len(got) > 0 || len(r.Unknown()) > 0 {
				t.Errorf("edits %v, unknown %v", got, r.Unknown())
			}
			if !r.Cluster().Equal(NewRecord(c).Cluster()) {
				t.Errorf("read %+v, wrote %+v", r.Cluster(), NewRecord(c).Cluster())
			}
			again, err := r.Marshal()
			if err != nil || string(again) != string(data) {
				t.Errorf("written again: %v\n%s\nbefore\n%s", err, again, data)
			}
		})
	}
}

// A record holds every value of the spec but those that are declared as local, and those nowhere.
func TestRecordHoldsNothingOfTheCaller(t *testing.T) {
	c := full()
	data, err := NewRecord(c).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(c, full()) {
		t.Error("making a record changed the spec")
	}
	locals := 0
	for _, p := range places(c) {
		v := p.at(c)
		var values []string
		switch v := v.Interface().(type) {
		case string:
			values = []string{v}
		case []string:
			values = v
		}
		local := false
		visit(reflect.TypeFor[Cluster](), "", func(path, _ string, f reflect.StructField) {
			if strings.ReplaceAll(path, "[]", "") == keyless(p.path) {
				local = declared(f).local
			}
		})
		for _, value := range values {
			if local {
				locals++
			}
			if strings.Contains(string(data), value) == local {
				t.Errorf("%s: local %t, and its value %q is recorded: %t", p.path, local, value, !local)
			}
		}
	}
	if locals == 0 {
		t.Error("no field is local")
	}
	for _, f := range []string{"CAFile", "KeyFile", "PasswordFile"} { // fields that are added later must not be forgotten
		visit(reflect.TypeFor[Cluster](), "", func(path, _ string, sf reflect.StructField) {
			if strings.HasSuffix(strings.ToLower(sf.Name), strings.ToLower(f)) && !declared(sf).local {
				t.Errorf("%s is a path on the machine of the caller, and not declared as local", path)
			}
		})
	}
}

// What the caller calls its files is no edit of the cluster; everything that is recorded is.
func TestRecordCompare(t *testing.T) {
	before := edit(t, real, existingEtcd...)
	r := NewRecord(mustParse(t, before))
	if got := r.Compare(mustParse(t, edit(t, before, "ca.pem", "/home/x/ca.pem", "client.key", "k", "zone: a}", "zone: a, ssh: {keyFile: k, knownHostsFile: f}}"))); len(got) > 0 {
		t.Errorf("got %v", got)
	}
	if got := r.Compare(mustParse(t, edit(t, before, "10.244.0.0", "10.245.0.0", "zone: a}", "zone: a, ssh: {user: admin}}"))); len(got) != 2 {
		t.Errorf("got %v", got)
	}
}

func TestRecordsOfOtherVersions(t *testing.T) {
	data, err := NewRecord(mustParse(t, real)).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	own := string(data)

	more := edit(t, own, "  network:\n", "  encryption: {provider: kms}\n  network:\n    ipv6: true\n", "  - name: cp-b\n", "  - name: cp-b\n    rack: 7\n")
	r, err := ParseRecord([]byte(more))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := r.Unknown(), []string{"spec.encryption", "spec.network.ipv6", "spec.hosts[1].rack"}; !slices.Equal(got, want) {
		t.Errorf("unknown: got %v, want %v", got, want)
	}
	if got := r.Compare(mustParse(t, real)); len(got) > 0 {
		t.Errorf("got %v", got)
	}

	for _, v := range []string{"v1alpha2", "v1beta1", "v1", "v2"} {
		// A newer format may have other types everywhere: only its version may be read.
		newer := edit(t, own, "v1alpha1", v, "  hosts:\n", "  hosts: 7\n  machines:\n")
		if _, err := ParseRecord([]byte(newer)); !errors.Is(err, ErrNewerRecord) || !strings.Contains(err.Error(), "quorate.dev/"+v) {
			t.Errorf("%s: got %v", v, err)
		}
	}
	for name, text := range map[string]string{
		"empty":           "",
		"not YAML":        own + "\t:",
		"other group":     edit(t, own, "quorate.dev/", "example.com/"),
		"no version":      edit(t, own, "apiVersion: quorate.dev/v1alpha1\n", ""),
		"other kind":      edit(t, own, "kind: Cluster", "kind: Pod"),
		"wrong type":      edit(t, own, "  - name: cp-b\n", "  - name: [cp-b]\n"),
		"a name twice":    edit(t, own, "  - name: cp-b\n", "  - name: cp-a\n"),
		"a pool twice":    own + "  - name: web\n",
		"nameless":        edit(t, own, "  - name: cp-b\n", "  - name: \"\"\n"),
		"a field twice":   edit(t, own, "kind: Cluster\n", "kind: Cluster\nkind: Cluster\n"),
		"two documents":   own + "---\n" + own,
		"only a scalar":   "x",
		"older than this": edit(t, own, "v1alpha1", "v1alpha0"),
	} {
		r, err := ParseRecord([]byte(text))
		if err == nil || errors.Is(err, ErrNewerRecord) || !strings.HasPrefix(err.Error(), "reading the recorded spec: ") {
			t.Errorf("%s: got %v, %v", name, r, err)
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	data, err := NewRecord(full()).Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(real))
	f.Add([]byte("apiVersion: quorate.dev/v9"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := ParseRecord(data)
		if (r == nil) == (err == nil) {
			t.Fatalf("got %v and %v", r, err)
		}
		if err != nil {
			return
		}
		if got := r.Compare(r.Cluster()); len(got) > 0 {
			t.Errorf("a record differs from itself: %v", got)
		}
		written, err := r.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseRecord(written)
		if err != nil {
			t.Fatalf("%v\n%s", err, written)
		}
		if got := again.Compare(r.Cluster()); len(got) > 0 {
			t.Errorf("read again it differs: %v\n%s", got, written)
		}
	})
}
