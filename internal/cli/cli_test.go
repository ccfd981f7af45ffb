package cli

import (
	"bytes"
	"cmp"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"quorate.dev/quorate/components"
	"quorate.dev/quorate/internal/host"
	"quorate.dev/quorate/internal/machines"
	"quorate.dev/quorate/internal/spec"
)

// quorate runs a command line in an empty folder, with no cluster of up's and no lab.
func quorate(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	t.Setenv("QUORATE_STATE", t.TempDir())
	t.Setenv("QUORATE_CACHE", t.TempDir())
	var out, errOut bytes.Buffer
	code = Main(t.Context(), args, strings.NewReader(""), &out, &errOut)
	return code, out.String(), errOut.String()
}

func TestUsageErrors(t *testing.T) {
	t.Chdir(t.TempDir())
	for line, want := range map[string]string{
		"frob":                    `unknown command "frob"`,
		"help frob":               `unknown command "frob"`,
		"completion frob":         `unknown command "frob"`,
		"version --timeout -5s":   "a time above 0",
		"lab --lab nope ssh cp-a": "no such lab",
		"lab --lab nope ssh cp-a kubectl get nodes -o wide --watch": "no such lab",
		"lab --lab ../x heal":                              "is not a DNS label",
		"down --name ../x":                                 "is not a DNS label",
		"bundle build --kubernetes-version v1.2.3":         "cannot make a bundle",
		"bundle pull a:b:c":                                "is not a registry reference",
		"bundle pull r.example.com/b:v1 --digest abc":      "is not a digest",
		"bundle pull --digest sha256:abc":                  "is not a digest",
		"init --control-planes 99999":                      "at most 5000 nodes",
		"status --strict-host-keys --accept-new-host-keys": "cannot be combined",
		"stauts":                                   `did you mean "status"?`,
		"lab frob":                                 `unknown command "frob" for "quorate lab"`,
		"bundle frob":                              `unknown command "frob"`,
		"up --frob":                                "unknown flag: --frob",
		"plan x":                                   `unknown command "x"`,
		"audit csi":                                `unknown command "csi" for "quorate audit"`,
		"audit --depth 3":                          "must be 1",
		"audit -o xml":                             "or html",
		"lab ssh":                                  "requires at least 1 arg",
		"status":                                   "no spec",
		"status -f nope.yaml":                      "nope.yaml",
		"init --host name":                         "name",
		"kubeconfig -f nope.yaml":                  "nope.yaml",
		"lab fault tickle cp-a":                    "unknown fault",
		"lab heal tickle cp-a":                     "unknown fault",
		"lab heal cut":                             "a kind and a target",
		"lab create --ip-family ipv5":              "must be ipv4, ipv6, or dual",
		"maintain":                                 "name a host",
		"maintain --all":                           "--all needs --undo or --reboot",
		"maintain --undo cp-a --all":               "but not both",
		"maintain cp-a cp-b":                       "only one host or zone",
		"maintain --reboot --dry-run cp-a":         "--dry-run cannot be combined",
		"maintain --undo --force cp-a":             "--undo cannot be combined",
		"kubeconfig --merge":                       "--merge requires --to FILE",
		"size --nodes 0":                           "a number from 1 to",
		"restore NAME":                             "--identity is required",
		"restore --identity x":                     "name a backup",
		"backup verify":                            "--identity is required",
		"up --from-backup x":                       "--identity is required",
		"recover --yes":                            "need --from HOST",
		"validate -f /dev/null":                    "",
		"version -o xml":                           `unknown output "xml"`,
		"apply -o jsno":                            `unknown output "jsno"`,
		"down --name x -o xml":                     `unknown output "xml"`,
		"maintain cp-a -o xml":                     `unknown output "xml"`,
		"reset --all --yes -o xml":                 `unknown output "xml"`,
		"certs rotate ca -o html":                  `unknown output "html"`,
		"certs rotate":                             "say what to replace: ca, front-proxy-ca, etcd-ca, sa",
		"certs rotate etcd":                        "say what to replace: ca, front-proxy-ca, etcd-ca, sa",
		"certs rotate ca --keys-published":         "--keys-published is for sa",
		"reset":                                    "name the hosts to reset",
		"reset --all cp-a":                         "but not both",
		"bundle build -f x.yaml":                   "quorate bundle build reads no spec: leave out -f, and name the version with --kubernetes-version",
		"bundle push r.example.com/b:v1 -f x.yaml": "reads no spec",
		"bundle import x -f x.yaml":                "quorate bundle import reads no spec: leave out -f",
		"bundle pull -f x.yaml --kubernetes-version v1.36.3":                     "leave out the reference and the other flags",
		"bundle verify --kubernetes-version 1.36":                                "cannot make a bundle",
		"bundle verify --kubernetes-version v1.36.0 --monitoring":                "can be compiled here only for",
		"init --from-cluster root@10.0.0.11 --ssh-jump a,b --ssh-jump-key x,y,z": "3 keys, and jump names 2",
		"init --from-cluster root@10.0.0.11 --ssh-jump-key x":                    "there is none",
		"bundle verify --kubernetes-version v1.36.3 -f x.yaml":                   "leave out --kubernetes-version",
		"watch -o yaml":                                "must be text or json",
		"drill -o html":                                "or junit",
		"drill --heal -o junit":                        "--list and --heal",
		"up --name Not_A_Name":                         "metadata.name",
		"up --source official --from-backup x":         "--source cannot be combined with --from-backup",
		"up --source mirror":                           "must be auto, official, or modules",
		"up --source official -f nope.yaml":            "components.source says it",
		"init --control-planes 4":                      "4 control planes",
		"init --zones a,b":                             "zones",
		"init --topology externl":                      "did you mean `external`",
		"preflight --ignore swpa":                      `did you mean "swap"?`,
		"apply --ignore all":                           `unknown check "all"`,
		"reset --all --force":                          "--force cannot be combined with --all",
		"bundle pull --releases https://m.example.com": "both",
		"bundle pull --releases http://m.example.com --registry r.example.com":         "https",
		"bundle pull r.example.com/b:v1 --registry r.example.com --releases https://m": "leave out the reference",
		"bundle pull r.example.com/b:v1 -f cluster.yaml":                               "leave out the reference",
		"bundle pull r.example.com/b:v1 --username u":                                  "must be set together",
		"bundle pull r.example.com/b:v1 --signatures all":                              "leave out the reference",
		"bundle pull --signatures all":                                                 "set publicKeyFile, or identity and issuer",
		"bundle pull --releases https://m --registry r.example.com --trusted-root r":   "none is verified",
		"bundle pull --public-key k":                                                   "set require: all",
		"init --from-terraform nope.json":                                              "nope.json",
		"init --from-terraform x --workers 3":                                          "--workers cannot be combined with --from-terraform",
		"init --ssh-config":                                                            "--ssh-config needs hosts",
		"init --ssh-config=nope --host name=cp-a":                                      "OpenSSH",
		"init --from-terraform -":                                                      "it is empty",
		"init --from-cluster root@10.0.0.11 --from-terraform x":                        "--from-terraform and --from-cluster cannot be combined",
		"init --from-ansible nope.ini":                                                 "nope.ini",
		"init --from-ansible .":                                                        "ansible-inventory -i . --list",
		"init --from-ansible -":                                                        "it is empty",
		"init --from-ansible - --host name=cp-a":                                       "--host cannot be combined with --from-ansible",
		"init --from-ansible - --from-terraform -":                                     "--from-terraform and --from-ansible cannot be combined",
		"init --from-cluster root@10.0.0.11 --workers 3":                               "--workers cannot be combined with --from-cluster",
		"init --from-cluster root@10.0.0.11:x":                                         "write user@address",
		"init --from-cluster root@10.0.0.11 --to /dev/null":                            "already exists",
		"init --ssh-key k --host name=cp-a":                                            "--ssh-key needs --from-cluster",
		"bundle push":                                                                  "accepts 1 arg",
		"bundle push r.example.com/b --username u":                                     "must be set together",
		"bundle versions --releases http://m.example.com":                              "https",
		"bundle versions --username u":                                                 "must be set together",
		"bundle sources --kubernetes-version v1.2.3":                                   "v1.2.3",
		"plan --by-hand --detailed-exitcode":                                           "--by-hand cannot be combined",
		"plan --by-hand -f nope.yaml":                                                  "nope.yaml",
		"status --watch --compare-etcd":                                                "cannot be combined with --watch",
		"dashboard --interval 10ms":                                                    "--interval must be 1s or more",
		"bundle pull registry.example.com/q:v1 --arch amd64":                           "leave out --arch",
		"bundle verify --arch s390x":                                                   "amd64 or arm64",
		"status --watch --interval 0s":                                                 "--interval must be 1s or more",
		"dashboard --tls-cert c.pem":                                                   "must be set together",
		"dashboard --snapshot x.html --tls-cert c --tls-key k":                         "serves nothing",
		"dashboard -o yaml":                                                            "text or json",
		"dashboard -f nope.yaml":                                                       "nope.yaml",
		"lab create --profile hardend":                                                 "there is no profile \"hardend\": must be one of hardened, ",
		"lab create --profile cp-x=docker":                                             "there is no machine or zone \"cp-x\"",
		"lab create --profile cp-a=hardened,bastion":                                   "exclude each other",
		"lab create --profile bastion":                                                 "a lab has one bastion",
		"lab create --image debian-11":                                                 "there is no image \"debian-11\": must be one of debian-12, debian-13",
	} {
		code, out, errOut := quorate(t, strings.Fields(line)...)
		if code != exitUsage || !strings.Contains(errOut, want) || out != "" {
			t.Errorf("quorate %s: exit status %d, stdout %q, stderr %q; want %d and %q", line, code, out, errOut, exitUsage, want)
		}
		if strings.Contains(errOut, "The source of the bundle is") {
			t.Errorf("quorate %s: servers are asked before the arguments are checked: %s", line, errOut)
		}
	}
}

func TestInitThenValidate(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if code, _, errOut := quorate(t, "init"); code != exitDone {
		t.Fatalf("init: %s", errOut)
	}
	code, out, errOut := quorate(t, "validate")
	if code != exitDone || !strings.Contains(out, "is valid") {
		t.Fatalf("validate: exit status %d, %s%s", code, out, errOut)
	}
	before, err := os.ReadFile("cluster.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if code, _, _ := quorate(t, "init", "--name", "other"); code != exitUsage {
		t.Errorf("init replaces a spec: exit status %d", code)
	}
	if after, _ := os.ReadFile("cluster.yaml"); !bytes.Equal(before, after) {
		t.Error("a refused init changed the spec")
	}
	if code, _, errOut := quorate(t, "init", "-f", "prod.yaml", "--name", "prod"); code != exitDone || !strings.Contains(errOut, "quorate validate -f prod.yaml") {
		t.Errorf("init -f: exit status %d, %s", code, errOut)
	}
	if code, out, errOut := quorate(t, "validate", "-f", "prod.yaml"); code != exitDone || !strings.Contains(out, "is valid") {
		t.Errorf("validate -f: exit status %d, %s%s", code, out, errOut)
	}
	if code, _, errOut := quorate(t, "init", "-f", "a.yaml", "--to", "b.yaml"); code != exitUsage || !strings.Contains(errOut, "use one of them") {
		t.Errorf("two files: exit status %d, %s", code, errOut)
	}
	if code, _, errOut := quorate(t, "status"); code != exitFailed || !strings.Contains(errOut, "quorate up -f") {
		t.Errorf("status of a lab that is not there: exit status %d, %s", code, errOut)
	}
}

// TestUpKeepsTheSource of a cluster that exists already, without asking any server.
func TestUpKeepsTheSource(t *testing.T) {
	for name, tc := range map[string]struct{ spec, given, want string }{
		"compiled":             {"components: {source: modules}", sourceAuto, spec.SourceModules},
		"published":            {"components: {source: official}", sourceAuto, spec.SourceOfficial},
		"a mirror's":           {"components: {source: mirror, releases: https://m.example.com, registry: r.example.com}", sourceAuto, spec.SourceOfficial},
		"unreadable":           {"components: [", sourceAuto, ""},
		"unreadable, but said": {"components: [", spec.SourceOfficial, spec.SourceOfficial},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("QUORATE_STATE", t.TempDir())
			t.Setenv("QUORATE_CACHE", t.TempDir())
			file := machines.SpecFile("x")
			if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
				t.Fatal(err)
			}
			text := "apiVersion: " + spec.APIVersion + "\nkind: " + spec.Kind + "\nmetadata: {name: x}\nspec:\n  " + tc.spec + "\n"
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			var said bytes.Buffer
			c, otherwise, err := (&app{err: &said}).upDefault(t.Context(), "x", tc.given, "", func(*spec.Cluster) error { return nil })
			switch {
			case said.Len() > 0 || otherwise != nil:
				t.Errorf("it was chosen: %s", said.String())
			case tc.want == "":
				if err == nil || !strings.Contains(err.Error(), "--source") || c != nil {
					t.Errorf("%v", err)
				}
			case err != nil || c.Spec.Components.Source != tc.want:
				t.Errorf("%+v, %v", c, err)
			}
		})
	}
}

func TestInitFromAnsible(t *testing.T) {
	data, err := os.ReadFile("../spec/testdata/inventory.ini")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.WriteFile("hosts.ini", data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir("group_vars", 0o700); err != nil {
		t.Fatal(err)
	}
	code, out, errOut := quorate(t, "init", "--from-ansible", "hosts.ini", "--name", "prod", "--to", "-")
	if code != exitDone || !strings.Contains(out, "- {name: cp-01, address: 10.0.0.11, roles: [control-plane], zone: a, ssh: {address: 192.0.2.11, user: admin,") {
		t.Errorf("exit status %d: %s%s", code, out, errOut)
	}
	if !strings.Contains(errOut, "group_vars was not read") || strings.Contains(out+errOut, "hunter2") {
		t.Errorf("%s", errOut)
	}
}

func TestInitFromTerraform(t *testing.T) {
	data, err := os.ReadFile("../spec/testdata/terraform.json")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	run := func(in string, args ...string) (int, string, string) {
		var out, errOut bytes.Buffer
		code := Main(t.Context(), append([]string{"init", "--from-terraform", "-"}, args...), strings.NewReader(in), &out, &errOut)
		return code, out.String(), errOut.String()
	}
	if code, out, errOut := run(string(data), "--to", "-", "--name", "other"); code != exitDone || !strings.Contains(out, "name: other") || !strings.Contains(out, "- {name: cp-a, address: 10.0.0.11,") {
		t.Errorf("exit status %d: %s%s", code, out, errOut)
	}
	// What is wrong is named where it is, and nothing is written.
	code, _, errOut := run(strings.Replace(string(data), `"zone": "eu-central-1b"`, `"zone": 7`, 1))
	if _, err := os.Stat("cluster.yaml"); code != exitUsage || !strings.Contains(errOut, "quorate.value.hosts[1].zone: it must be a string, but it is a number") || !os.IsNotExist(err) {
		t.Errorf("exit status %d, %v: %s", code, err, errOut)
	}
	if code, _, errOut := run(strings.Replace(string(data), `"sensitive": false`, `"sensitive": true`, 1)); code != exitDone || !strings.Contains(errOut, "marked as sensitive") {
		t.Fatalf("exit status %d: %s", code, errOut)
	}
	if info, err := os.Stat("cluster.yaml"); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("a sensitive spec: %v, %v", info.Mode(), err)
	}
	// Also where it replaces a file that everybody may read.
	if err := os.Chmod("cluster.yaml", 0o644); err != nil {
		t.Fatal(err)
	}
	if code, _, errOut := run(strings.Replace(string(data), `"sensitive": false`, `"sensitive": true`, 1), "--yes"); code != exitDone {
		t.Fatalf("exit status %d: %s", code, errOut)
	}
	if info, err := os.Stat("cluster.yaml"); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("a sensitive spec in place of another: %v, %v", info.Mode(), err)
	}
	if code, out, errOut := quorate(t, "validate"); code != exitDone || !strings.Contains(out, "5 hosts") {
		t.Errorf("exit status %d: %s%s", code, out, errOut)
	}
}

func TestValidateSpeaksJSON(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cluster.yaml")
	if err := os.WriteFile(file, []byte("apiVersion: "+spec.APIVersion+"\nkind: Cluster\nspec:\n  hsots: []\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, errOut := quorate(t, "validate", "-f", file, "-o", "json")
	var answer struct {
		Valid    bool
		Problems []spec.Problem
	}
	if err := json.Unmarshal([]byte(out), &answer); err != nil || code != exitUsage || errOut != "" || answer.Valid || len(answer.Problems) == 0 {
		t.Fatalf("exit status %d, %v: %s%s", code, err, out, errOut)
	}
	if p := answer.Problems[0]; p.Line == 0 || p.Message == "" {
		t.Errorf("%+v", p)
	}
}

func TestEveryCommandSaysWhatItDoes(t *testing.T) {
	root := (&app{}).root()
	for _, c := range root.Commands() {
		if c.Short == "" {
			t.Errorf("%s says nothing", c.Name())
		}
	}
	if code, out, _ := quorate(t, "--help"); code != exitDone || !strings.Contains(out, "quorate up") {
		t.Errorf("--help: %d", code)
	}
}

func TestBundleSourcesTellWhatAMirrorHolds(t *testing.T) {
	code, out, errOut := quorate(t, "bundle", "sources", "-o", "json")
	var all []sourceInfo
	if err := json.Unmarshal([]byte(out), &all); err != nil || code != exitDone {
		t.Fatalf("exit status %d, %v, %s", code, err, errOut)
	}
	kinds := map[string]int{}
	for _, s := range all {
		kinds[s.Kind]++
		if base := map[string]string{"image": "REGISTRY/"}[s.Kind]; !strings.HasPrefix(s.At, cmp.Or(base, "RELEASES/")) || s.From == "" {
			t.Errorf("%+v", s)
		}
	}
	if kinds["file"] == 0 || kinds["file"] != kinds["checksum"] || kinds["image"] == 0 {
		t.Errorf("listed %v", kinds)
	}
}

// The hosts of the example do not exist, there is no bundle, and nothing is waited for.
func TestPlanByHandAsksNobody(t *testing.T) {
	code, out, errOut := quorate(t, "plan", "--by-hand", "-f", "../../examples/stacked.yaml")
	if code != exitDone || errOut != "" || !strings.HasPrefix(out, "#!/usr/bin/env bash\n") || !strings.Contains(out, "image: quorate.dev/flannel:v") ||
		!strings.Contains(out, "sandbox = 'registry.k8s.io/pause:3") {
		t.Errorf("exit status %d, %s%s", code, out, errOut)
	}
	code, out, errOut = quorate(t, "plan", "--by-hand", "-f", "../../examples/stacked.yaml", "-o", "json")
	var guide struct {
		Cluster  string
		Sections []struct{ Steps []struct{ Hosts []string } }
	}
	if err := json.Unmarshal([]byte(out), &guide); err != nil || code != exitDone || guide.Cluster != "prod" || len(guide.Sections) < 5 || len(guide.Sections[0].Steps[0].Hosts) == 0 {
		t.Errorf("exit status %d, %v, %s%s", code, err, out, errOut)
	}
	if code, _, errOut := quorate(t, "plan", "--by-hand", "-f", "../../examples/lab-stacked.yaml"); code != exitFailed || !strings.Contains(errOut, "its lab does not exist yet") {
		t.Errorf("hosts without addresses: exit status %d, %s", code, errOut)
	}
}

func TestNewHostKeysAreConfirmedInOneQuestion(t *testing.T) {
	keys := []host.NewKey{
		{Host: "cp-a", Address: "10.0.0.11:22", Type: "ecdsa-sha2-nistp256", Fingerprint: "SHA256:one"},
		{Host: "cp-b", Address: "10.0.0.12:22", Type: "ssh-ed25519", Fingerprint: "SHA256:two"},
	}
	for answer, want := range map[string]bool{"yes": true, "YES": true, "y": false, "no": false, "": false} {
		var asked []string
		a := &app{askAloud: func(question string) (string, error) { asked = append(asked, question); return answer, nil }}
		got, err := a.confirmKeys(keys)
		if err != nil || got != want || len(asked) != 1 {
			t.Errorf("%q: %v, %v, asked %d times", answer, got, err, len(asked))
		}
		for _, word := range []string{"cp-a (10.0.0.11:22)", "SHA256:one", "cp-b", "SHA256:two", "ssh-keygen -lf /etc/ssh/ssh_host_ecdsa_key.pub"} {
			if !strings.Contains(asked[0], word) {
				t.Errorf("no %q in the question:\n%s", word, asked[0])
			}
		}
	}
}

// TestOlderClustersAreNotRefused by commands that need no bundle: an adopted cluster may be of a version that nobody can build here.
func TestOlderClustersAreNotRefused(t *testing.T) {
	t.Chdir(t.TempDir())
	if code, _, errOut := quorate(t, "init"); code != exitDone {
		t.Fatal(errOut)
	}
	text, err := os.ReadFile("cluster.yaml")
	if err != nil {
		t.Fatal(err)
	}
	older := strings.ReplaceAll(string(text), spec.DefaultVersion, components.Managed()[0]+".1")
	if older == string(text) {
		t.Fatal("the spec names no version")
	}
	if err := os.WriteFile("cluster.yaml", []byte(older), 0o600); err != nil {
		t.Fatal(err)
	}
	const refused = "cannot build Kubernetes"
	for line, builds := range map[string]bool{
		"maintain cp-a": false, "maintain --undo cp-a": false, "maintain --reboot --all": false, "reset cp-a": false, "reset --all --yes": false, "status": false, "drill": false,
		"apply": true, "plan": true, "preflight": true, // they would bring programs of this version to hosts
	} {
		if _, out, errOut := quorate(t, strings.Fields(line)...); strings.Contains(out+errOut, refused) != builds {
			t.Errorf("%s: %s%s", line, out, errOut)
		}
	}
	a := &app{file: "cluster.yaml"}
	if _, err := a.downSpec(); err != nil {
		t.Errorf("down: %v", err)
	}
	if _, err := a.openLab(""); err != nil && strings.Contains(err.Error(), refused) {
		t.Errorf("the commands of the lab: %v", err)
	}
}
