package backup

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"quorate.dev/quorate/internal/encryption"
	"quorate.dev/quorate/internal/snapshot"
	"quorate.dev/quorate/internal/staticpod"
)

// KubernetesDir is the directory whose files have the names of Kubernetes. Others have those of Host.
const KubernetesDir = "/etc/kubernetes"

// PartOf is the name of the part for a file of the control plane.
func PartOf(file string) string {
	if below, ok := strings.CutPrefix(file, KubernetesDir+"/"); ok {
		return Kubernetes + below
	}
	return Host + strings.TrimPrefix(file, "/")
}

// Manifests are the static pods whose flags name files that a restore needs.
var Manifests = []string{KubernetesDir + "/manifests/kube-apiserver.yaml", KubernetesDir + "/manifests/kube-controller-manager.yaml", KubernetesDir + "/manifests/kube-scheduler.yaml"}

// Reference is a file that a flag of a static pod names.
type Reference struct {
	Flag string
	// Path is where it is on the host.
	Path string
}

// EncryptionFlag names the file with the keys that encrypt values in etcd.
const EncryptionFlag = "encryption-provider-config"

// SigningFlag names a socket of something that signs the tokens of service accounts instead of a key in a file.
const SigningFlag = "service-account-signing-endpoint"

// serviceAccountFlags name the key that signs the tokens of service accounts.
var serviceAccountFlags = []string{"service-account-signing-key-file", "service-account-private-key-file"}

// References are the files that the flags of a static pod name. Files of the image are none of the host's.
func References(pod *corev1.Pod) (out []Reference) {
	for _, f := range staticpod.ArgumentList(pod) {
		if !namesFiles(f.Name) {
			continue
		}
		for _, value := range strings.Split(f.Value, ",") {
			value, _, _ = strings.Cut(value, ":") // the names of a certificate for SNI
			if !path.IsAbs(value) {
				continue
			}
			if on := onHost(pod, path.Clean(value)); on != "" {
				out = append(out, Reference{f.Name, on})
			}
		}
	}
	return out
}

// namesFiles says that a flag names files that a program reads. Other flags have values that look like paths: /registry, /healthz, and
// places for logs and sockets.
func namesFiles(flag string) bool {
	if strings.HasPrefix(flag, "log-") {
		return false
	}
	return slices.ContainsFunc([]string{"file", "config", "-certificate", "-key", "certificate-authority"}, func(end string) bool { return strings.HasSuffix(flag, end) })
}

// onHost is the file of the host that the first container of a pod sees at a path.
func onHost(pod *corev1.Pod, file string) string {
	out, depth := "", -1
	for _, m := range pod.Spec.Containers[0].VolumeMounts {
		at := path.Clean(m.MountPath)
		below, ok := strings.CutPrefix(file, strings.TrimSuffix(at, "/"))
		if !ok || below != "" && below[0] != '/' || len(at) <= depth {
			continue
		}
		depth, out = len(at), ""
		for _, v := range pod.Spec.Volumes {
			if v.Name == m.Name && v.HostPath != nil {
				out = path.Join(v.HostPath.Path, m.SubPath, below)
			}
		}
	}
	return out
}

// APIServer returns the flags of the backup's API server, and the encryption configuration that it uses; nil if it uses none.
func APIServer(parts map[string][]byte) (flags map[string]string, keys []byte, _ error) {
	name := PartOf(Manifests[0])
	pod, err := staticpod.Parse(name, parts[name])
	if err != nil {
		return nil, nil, err
	}
	for _, r := range References(pod) {
		if r.Flag == EncryptionFlag {
			keys = parts[PartOf(r.Path)]
		}
	}
	return staticpod.Arguments(pod), keys, nil
}

// Check says why the parts of a backup would not be enough to run the cluster again. It gets the content of all parts but the snapshot,
// and what is in the snapshot.
func Check(m Manifest, parts map[string][]byte, in snapshot.Contents) error {
	return errors.Join(checkSpec(m, parts), checkPairs(parts), checkFlags(m, parts, in))
}

func checkSpec(m Manifest, parts map[string][]byte) error {
	text, has := parts[SpecPart]
	if !has {
		if slices.Contains(m.Missing, SpecPart) {
			return nil
		}
		return fmt.Errorf("the backup has no %s, and does not say that it is missing", SpecPart)
	}
	var c struct {
		Metadata struct {
			Name string `json:"name"`
		} `json:"metadata"`
	}
	if err := yaml.Unmarshal(text, &c); err != nil {
		return fmt.Errorf("%s: %w", SpecPart, err)
	}
	if c.Metadata.Name != m.Cluster.Name {
		return fmt.Errorf("%s is of the cluster %q, and the backup of %q: the spec that is recorded in the cluster is another one's. `quorate apply` with the spec of %s records it again; then take another backup",
			SpecPart, c.Metadata.Name, m.Cluster.Name, m.Cluster.Name)
	}
	return nil
}

// pairs are the certificates, or public keys, and the keys that everything else depends on.
var pairs = [][2]string{{"pki/ca.crt", "pki/ca.key"}, {"pki/front-proxy-ca.crt", "pki/front-proxy-ca.key"}, {"pki/etcd/ca.crt", "pki/etcd/ca.key"}, {"pki/sa.pub", "pki/sa.key"}}

func checkPairs(parts map[string][]byte) error {
	var errs []error
	for _, p := range pairs {
		key, has := parts[Kubernetes+p[1]]
		if !has {
			continue // it is named as missing
		}
		public, has := parts[Kubernetes+p[0]]
		switch {
		case !has && path.Ext(p[0]) == ".crt":
			errs = append(errs, fmt.Errorf("the backup has %s, and no %s", p[1], p[0]))
		case !has:
		case !belongs(public, key):
			errs = append(errs, fmt.Errorf("%s does not belong to %s", p[1], p[0]))
		}
	}
	return errors.Join(errs...)
}

// belongs says that a key is the one of a certificate or of a public key.
func belongs(public, key []byte) bool {
	block, _ := pem.Decode(public)
	if block == nil {
		return false
	}
	if block.Type == "CERTIFICATE" {
		_, err := tls.X509KeyPair(public, key)
		return err == nil
	}
	want, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return false
	}
	signer, err := parseKey(key)
	if err != nil {
		return false
	}
	equal, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && equal.Equal(want)
}

func parseKey(text []byte) (crypto.Signer, error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		var key any
		var err error
		switch block.Type {
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		default:
			continue // the parameters of a curve
		}
		if signer, ok := key.(crypto.Signer); err == nil && ok {
			return signer, nil
		}
		return nil, errors.New("it is no private key")
	}
	return nil, errors.New("it is no private key")
}

// checkFlags compares the files that the flags of static pods name with the parts. A file that is missing must be listed so; without the
// keys that decrypt what is in etcd, or the one that signs the tokens of service accounts, there is no backup.
func checkFlags(m Manifest, parts map[string][]byte, in snapshot.Contents) error {
	var errs []error
	var keys []byte
	signs := false
	for _, file := range Manifests {
		text, has := parts[PartOf(file)]
		if !has {
			if file == Manifests[0] {
				errs = append(errs, fmt.Errorf("the backup has no %s, which says where the API server's keys are", PartOf(file)))
			}
			continue
		}
		pod, err := staticpod.Parse(PartOf(file), text)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if file == Manifests[0] && staticpod.Arguments(pod)[SigningFlag] != "" {
			signs = true // something else signs tokens, and is named as missing
		}
		for _, r := range References(pod) {
			content, has := parts[PartOf(r.Path)]
			signer := slices.Contains(serviceAccountFlags, r.Flag)
			signs = signs || signer && has
			switch {
			case has && r.Flag == EncryptionFlag:
				keys = content
			case has:
			case r.Flag == EncryptionFlag:
				errs = append(errs, fmt.Errorf("the backup has no %s (--%s), without which nobody can read what is encrypted in etcd", PartOf(r.Path), r.Flag))
			case signer:
				errs = append(errs, fmt.Errorf("the backup has no %s (--%s), without which no service account can log in", PartOf(r.Path), r.Flag))
			case !slices.Contains(m.Missing, PartOf(r.Path)):
				errs = append(errs, fmt.Errorf("the backup has no %s (--%s), and does not say that it is missing", PartOf(r.Path), r.Flag))
			}
		}
	}
	if !signs && len(errs) == 0 {
		errs = append(errs, errors.New("the backup has no key that signs the tokens of service accounts"))
	}
	return errors.Join(append(errs, encryption.Covers(keys, in.Encrypted))...)
}
