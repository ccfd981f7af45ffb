package confidential

import "testing"

func TestReason(t *testing.T) {
	for name, tc := range map[string]struct{ path, content, want string }{
		"a key":                       {"/etc/kubernetes/pki/ca.key", "", ByPlace},
		"a certificate":               {"/etc/kubernetes/pki/ca.crt", "-----BEGIN CERTIFICATE-----\n", ""},
		"a certificate with its key":  {"/etc/haproxy/site.crt", "-----BEGIN CERTIFICATE-----\n-----BEGIN EC PRIVATE KEY-----\n", ByContent},
		"the kubelet's pair":          {"/var/lib/kubelet/pki/kubelet-client-current.pem", "", ByPlace},
		"the encryption keys":         {"/etc/kubernetes/pki/encryption.yaml", "", ByPlace},
		"a path that leads there":     {"/etc/kubernetes/manifests/../pki/sa", "", ByPlace},
		"a kubeconfig":                {"/etc/kubernetes/admin.conf", "", ByPlace},
		"a kubeconfig elsewhere":      {"/root/config", "users:\n- user:\n    client-key-data: LS0t\n", ByContent},
		"keepalived's password":       {"/etc/keepalived/keepalived.conf", "authentication {\n  auth_type PASS\n  auth_pass 1234\n}\n", ByContent},
		"only the password":           {"/etc/keepalived/keepalived.conf", "    auth_pass 1234\n", ByContent},
		"HAProxy's statistics":        {"/etc/haproxy/haproxy.cfg", "listen stats\n    stats auth admin:admin\n", ByContent},
		"HAProxy's users":             {"/etc/haproxy/haproxy.cfg", "userlist u\n    user x password $5$abc\n", ByContent},
		"HAProxy's plain users":       {"/etc/haproxy/haproxy.cfg", "userlist u\n    user x insecure-password abc\n", ByContent},
		"a header":                    {"/etc/haproxy/haproxy.cfg", "http-request set-header Authorization \"Basic YWRtaW46\"\n", ByContent},
		"a login of a registry":       {"/etc/containerd/config.toml", "[auth]\n  username = 'x'\n  password = 'y'\n", ByContent},
		"an encoded login":            {"/etc/containerd/config.toml", "  auth = 'eDp5'\n", ByContent},
		"a token of a registry":       {"/etc/containerd/config.toml", "  identitytoken = 'y'\n", ByContent},
		"a proxy":                     {"/etc/systemd/system/containerd.service", "Environment=HTTPS_PROXY=http://me:pw@proxy:3128\n", ByContent},
		"a proxy without a password":  {"/etc/systemd/system/containerd.service", "Environment=HTTPS_PROXY=http://proxy:3128\n", ""},
		"JSON":                        {"/etc/a.json", `{"clientSecret": "x"}`, ByContent},
		"an environment file":         {"/etc/etcd.env", "ETCD_INITIAL_CLUSTER_TOKEN=x\n", ByContent},
		"an access key":               {"/etc/backup.env", "AWS_ACCESS_KEY=x\n", ByContent},
		"words":                       {"/etc/a.conf", "# VRRP version 3 has no passwords; a secret stays one\n", ""},
		"the name of a file of a key": {"/etc/etcd.env", "ETCD_KEY_FILE=/etc/kubernetes/pki/etcd/server.key\n", ""},
	} {
		if got := Reason(tc.path, tc.content); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}
