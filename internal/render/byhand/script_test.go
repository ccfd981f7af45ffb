package byhand

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"quorate.dev/quorate/internal/spec"
	"quorate.dev/quorate/internal/ui"
)

func TestSSHAsTheSpecSays(t *testing.T) {
	for name, tc := range map[string]struct {
		ssh  spec.SSH
		want string
	}{
		"root":        {spec.SSH{User: "root", Port: 22}, "ssh root@10.0.0.1"},
		"sudo":        {spec.SSH{User: "admin", Port: 2222, KeyFile: "~/.ssh/id"}, "ssh -o IdentitiesOnly=yes -i ~/.ssh/id -p 2222 admin@10.0.0.1 sudo"},
		"known hosts": {spec.SSH{User: "root", Port: 22, KeyFile: "/a b/key", KnownHostsFile: "/k"}, "ssh -o IdentitiesOnly=yes -i '/a b/key' -o UserKnownHostsFile=/k root@10.0.0.1"},
		"jump": {spec.SSH{User: "admin", Port: 22, KeyFile: "/key", Jump: "me@bastion:2022"},
			"ssh -o IdentitiesOnly=yes -i /key -o 'ProxyCommand=ssh -o IdentitiesOnly=yes -i /key -W %h:%p -p 2022 me@bastion' admin@10.0.0.1 sudo"},
		"two jumps, with a key of their own": {spec.SSH{User: "admin", Port: 22, KeyFile: "/key", Jump: "me@one:2022,two", JumpKeyFile: "/jump"},
			"ssh -o IdentitiesOnly=yes -i /key -o " + ui.Quote("ProxyCommand=ssh -o IdentitiesOnly=yes -i /jump -o "+ui.Quote("ProxyCommand=ssh -o IdentitiesOnly=yes -i /jump -W two:22 -p 2022 me@one")+" -W %h:%p admin@two") + " admin@10.0.0.1 sudo"},
		"two jumps, each with a key of its own": {spec.SSH{User: "admin", Port: 22, KeyFile: "/key", Jump: "me@one:2022,[fd00::2]:23", JumpKeyFile: "/first,"},
			"ssh -o IdentitiesOnly=yes -i /key -o " + ui.Quote("ProxyCommand=ssh -o IdentitiesOnly=yes -i /key -o "+ui.Quote("ProxyCommand=ssh -o IdentitiesOnly=yes -i /first -W "+ui.Quote("[fd00::2]:23")+" -p 2022 me@one")+" -W %h:%p -p 23 admin@fd00::2") + " admin@10.0.0.1 sudo"},
		"jump as oneself": {spec.SSH{User: "admin", Port: 22, Jump: "bastion"}, "ssh -o 'ProxyCommand=ssh -W %h:%p admin@bastion' admin@10.0.0.1 sudo"},
	} {
		if got := ssh(spec.Host{Address: "10.0.0.1", SSH: tc.ssh}); got != tc.want {
			t.Errorf("%s: %s\nwant %s", name, got, tc.want)
		}
	}
}

// sshd stands for the hosts: it keeps what each is told, and says what kubeadm init would.
const sshd = `#!/bin/bash
for word; do case $word in *@*) host=${word#*@} ;; esac; done
case "$*" in *"tar -C / -c"*) echo archive; exit ;; esac
text=$(cat)
echo "$text" >"$SAID/$host.$BASHPID"
bash -n <<<"$text" || exit 1
if [ -n "$FAILS" ] && grep -q -F "$FAILS" <<<"$text"; then exit 7; fi
if grep -q 'kubeadm init --upload-certs' <<<"$text"; then
    cat <<'END'
You can now join any number of control-plane nodes running the following command on each as root:

  kubeadm join api:6443 --token abcdef.0123456789abcdef \
	--discovery-token-ca-cert-hash sha256:1234 \
	--control-plane --certificate-key 5678

Then you can join any number of worker nodes by running the following on each as root:

kubeadm join api:6443 --token abcdef.0123456789abcdef \
	--discovery-token-ca-cert-hash sha256:1234
END
fi
`

// runOn runs a guide with hosts that only listen, and returns what each was told.
func runOn(t *testing.T, script, fails string) (told map[string]string, err error) {
	t.Helper()
	dir := t.TempDir()
	said := filepath.Join(dir, "said")
	if err := os.Mkdir(said, 0o700); err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{"ssh": sshd, "guide.sh": script} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("bash", filepath.Join(dir, "guide.sh"))
	cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "SAID="+said, "FAILS="+fails)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	files, globErr := filepath.Glob(filepath.Join(said, "*"))
	if globErr != nil {
		t.Fatal(globErr)
	}
	told = map[string]string{}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		host := strings.TrimSuffix(filepath.Base(f), filepath.Ext(f))
		told[host] += string(text)
	}
	return told, err
}

func TestScriptTellsEachHostItsPart(t *testing.T) {
	c := load(t, "../../../examples/external-etcd.yaml")
	_, text := write(t, c)
	told, err := runOn(t, text, "")
	if err != nil {
		t.Fatal(err)
	}
	const words = "token=abcdef.0123456789abcdef hash=sha256:1234 key=5678\n{\n"
	for _, h := range c.Spec.Hosts {
		for what, part := range map[string]bool{
			words + "# kubeadm init printed the token": h.IsNode() && h.Name != "cp-a",
			"kubeadm init --upload":                    h.Name == "cp-a",
			"\n} </dev/null\n":                         true,
			"ETCD_NAME=" + h.Name + "\n":               h.Has(spec.RoleEtcd),
			"vrrp_instance":                            h.Has(spec.RoleLoadBalancer),
			"sandbox = ":                               h.IsNode(),
			"archive":                                  h.Has(spec.RoleControlPlane) || h.Name == "etcd-b" || h.Name == "etcd-c",
		} {
			if strings.Contains(told[h.Address], what) != part {
				t.Errorf("%s: %q is there: %v\n%s", h.Name, what, !part, told[h.Address])
			}
		}
	}
}

func TestScriptEndsWhereAHostFails(t *testing.T) {
	c := load(t, "../../../examples/stacked.yaml")
	_, text := write(t, c)
	for fails, tc := range map[string]struct{ reached, not string }{
		"unicast_src_ip 10.0.0.31":    {"worker-c", "kubeadm init"}, // all hosts are prepared at once
		"kubeadm init":                {"cp-a", "kubectl apply"},
		"advertiseAddress: 10.0.0.12": {"cp-b", "advertiseAddress: 10.0.0.13"},
	} {
		told, err := runOn(t, text, fails)
		if err == nil {
			t.Errorf("%q fails, and the script goes on", fails)
		}
		all := ""
		for _, text := range told {
			all += text
		}
		h, _ := c.Host(tc.reached)
		if told[h.Address] == "" || strings.Contains(all, tc.not) || !strings.Contains(all, fails) {
			t.Errorf("%q fails: %q was told: %v\n%s", fails, tc.not, strings.Contains(all, tc.not), all)
		}
	}
}
