package spec

import (
	"cmp"
	"fmt"
	"io"
	"net"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"

	"filippo.io/age"
	"filippo.io/age/agessh"

	"quorate.dev/quorate/internal/hostkey"
)

// Backup says where backups of etcd, the PKI, and the encryption keys go, who can read them, and which are kept. A control plane takes
// each of them and writes it to the store.
type Backup struct {
	// Recipients are the public keys that backups are encrypted to: of age (age1…) or SSH (ssh-ed25519 or ssh-rsa). Any one of
	// their private keys reads a backup. Keep these away from the cluster.
	Recipients []string `yaml:"recipients,omitempty" json:"recipients,omitempty" edit:"rolling,set"`
	// Directory stores backups in a directory that exists on every control plane, normally of a network file system.
	Directory string `yaml:"directory,omitempty" json:"directory,omitempty" edit:"rolling"`
	// SFTP stores backups on an SFTP server.
	SFTP BackupSFTP `yaml:"sftp,omitempty" json:"sftp,omitempty"`
	// S3 stores backups in a bucket of an S3-compatible store.
	S3 BackupS3 `yaml:"s3,omitempty" json:"s3,omitempty"`
	// Every is how often the control planes take a backup by themselves, such as 6h, which is the default. It is 10m or more. With
	// never, backups are taken only by the command.
	Every string `yaml:"every,omitempty" json:"every,omitempty" edit:"rolling"`
	// Keep says which backups are kept in the store.
	Keep BackupRetention `yaml:"keep,omitempty" json:"keep,omitempty"`
}

// BackupSFTP is a directory on an SFTP server.
type BackupSFTP struct {
	// Address is the server, with or without a port, as the control planes reach it.
	Address string `yaml:"address,omitempty" json:"address,omitempty" edit:"rolling"`
	// User is the user to log in as.
	User string `yaml:"user,omitempty" json:"user,omitempty" edit:"rolling"`
	// Directory is a directory that exists on the server.
	Directory string `yaml:"directory,omitempty" json:"directory,omitempty" edit:"rolling"`
	// HostKey is the key that the server must have: its fingerprint (SHA256:…) as ssh-keygen -l prints it, or the public key
	// itself.
	HostKey string `yaml:"hostKey,omitempty" json:"hostKey,omitempty" edit:"rolling"`
	// KeyFile is a private key without a passphrase, relative to the spec. The control planes use it. If they take
	// backups by themselves, each of them stores it in a file that only root can read.
	KeyFile string `yaml:"keyFile,omitempty" json:"keyFile,omitempty" edit:"rolling,local"`
}

// BackupS3 is a bucket of an S3-compatible store.
type BackupS3 struct {
	// Endpoint is the address of the store, such as https://s3.eu-central-1.amazonaws.com.
	Endpoint string `yaml:"endpoint,omitempty" json:"endpoint,omitempty" edit:"rolling"`
	// Bucket is a bucket that exists.
	Bucket string `yaml:"bucket,omitempty" json:"bucket,omitempty" edit:"rolling"`
	// Prefix is the folder in the bucket.
	Prefix string `yaml:"prefix,omitempty" json:"prefix,omitempty" edit:"rolling"`
	// Region is the region of the bucket. The default is us-east-1.
	Region string `yaml:"region,omitempty" json:"region,omitempty" edit:"rolling"`
	// CredentialsFile holds aws_access_key_id and aws_secret_access_key, as ~/.aws/credentials does, relative to the spec. Without
	// it, the environment variables AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are used. If the control planes take
	// backups by themselves, each of them stores the credentials in a file that only root can read.
	CredentialsFile string `yaml:"credentialsFile,omitempty" json:"credentialsFile,omitempty" edit:"rolling,local"`
	// InstanceRole has the control planes use the role that their machines have in their cloud: they ask its metadata service for
	// credentials, and none are sent or stored.
	InstanceRole bool `yaml:"instanceRole,omitempty" json:"instanceRole,omitempty" edit:"rolling"`
	// CAFile holds the CA certificates of the store, if the control planes' own do not include them, relative to the spec.
	CAFile string `yaml:"caFile,omitempty" json:"caFile,omitempty" edit:"rolling,local"`
}

// BackupRetention says which backups are kept. A backup stays as long as one of the rules keeps it; the newest always stays.
type BackupRetention struct {
	// Last is how many of the newest backups are kept.
	Last int `yaml:"last,omitempty" json:"last,omitempty" jsonschema:"minimum=1" edit:"rolling"`
	// Daily is for how many days the last backup of the day is kept.
	Daily int `yaml:"daily,omitempty" json:"daily,omitempty" jsonschema:"minimum=1" edit:"rolling"`
	// Weekly is for how many weeks the last backup of the week is kept.
	Weekly int `yaml:"weekly,omitempty" json:"weekly,omitempty" jsonschema:"minimum=1" edit:"rolling"`
}

// What a spec with backups that leaves a field out gets. Without any rule, a month of backups is kept.
const (
	DefaultBackupEvery  = "6h"
	DefaultBackupRegion = "us-east-1"
	DefaultBackupLast   = 7
	DefaultBackupDaily  = 7
	DefaultBackupWeekly = 4
)

const (
	// BackupNever is the value of Backup.Every with which control planes take no backups by themselves.
	BackupNever = "never"
	// minBackupEvery is twice as long as control planes take to find that one is due.
	minBackupEvery = 10 * time.Minute
)

// Given says that the spec has backups.
func (b Backup) Given() bool {
	return len(b.Recipients) > 0 || b.Every != "" || b.Directory != "" || b.SFTP != BackupSFTP{} || b.S3 != BackupS3{} || b.Keep != BackupRetention{}
}

// Interval is how often control planes take a backup by themselves; 0 if they take none.
func (b Backup) Interval() time.Duration {
	d, err := time.ParseDuration(b.Every)
	if err != nil { // never, or no backups
		return 0
	}
	return d
}

func (b *Backup) fill() {
	if !b.Given() {
		return
	}
	fill(&b.Every, DefaultBackupEvery)
	if b.Keep == (BackupRetention{}) {
		b.Keep = BackupRetention{DefaultBackupLast, DefaultBackupDaily, DefaultBackupWeekly}
	}
	if b.S3 != (BackupS3{}) {
		fill(&b.S3.Region, DefaultBackupRegion)
	}
	if a := cmp.Or(bracketed(b.SFTP.Address), b.SFTP.Address); a != "" && (a != b.SFTP.Address || !strings.Contains(a, ":")) {
		b.SFTP.Address = net.JoinHostPort(a, strconv.Itoa(DefaultSSHPort))
	}
}

// ParseRecipients reads the public keys that backups are encrypted to.
func ParseRecipients(keys []string) (out []age.Recipient, _ error) {
	for _, k := range keys {
		r, err := parseRecipient(k)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

func parseRecipient(key string) (age.Recipient, error) {
	if strings.HasPrefix(key, "ssh-") {
		r, err := agessh.ParseRecipient(key)
		if err != nil {
			return nil, fmt.Errorf("`%s` is not a public key of SSH that age supports", key)
		}
		return r, nil
	}
	r, err := age.ParseRecipients(strings.NewReader(key))
	if err != nil || len(r) != 1 {
		return nil, fmt.Errorf("`%s` is not a public key of age", key)
	}
	return r[0], nil
}

const backupPath = "spec.backup"

func (k *checker) backup() {
	b := k.c.Spec.Backup
	if !b.Given() || !k.sound(backupPath) {
		return
	}
	k.recipients(b.Recipients)
	stores := 0
	if b.Directory != "" {
		stores++
		if !path.IsAbs(b.Directory) {
			k.refuse(backupPath+".directory", "write the whole path of a directory that exists on every control plane", "`%s` is relative, and backups are written on the control planes", b.Directory)
		}
	}
	if b.SFTP != (BackupSFTP{}) {
		stores++
		k.backupSFTP(b.SFTP)
	}
	if b.S3 != (BackupS3{}) {
		stores++
		k.backupS3(b.S3)
	}
	switch {
	case stores == 0:
		k.refuse(backupPath, "set directory, sftp, or s3", "backups have no store")
	case stores > 1:
		k.refuse(backupPath, "keep one of directory, sftp, and s3", "backups have %d stores", stores)
	}
	if b.Every != BackupNever {
		switch d, err := time.ParseDuration(b.Every); {
		case err != nil || d <= 0:
			k.refuse(backupPath+".every", "write it like `6h`, or `never`", "`%s` is not a duration", b.Every)
		case d < minBackupEvery:
			k.refuse(backupPath+".every", "use 10m or more, or `never`", "`%s` is too often: a backup reads all of etcd", b.Every)
		}
	}
	for _, n := range []struct {
		name  string
		value int
	}{{"last", b.Keep.Last}, {"daily", b.Keep.Daily}, {"weekly", b.Keep.Weekly}} {
		if n.value < 0 {
			k.refuse(backupPath+".keep."+n.name, "use 1 or more, or leave it out", "%d is not a number of backups", n.value)
		}
	}
}

func (k *checker) recipients(keys []string) {
	const at = backupPath + ".recipients"
	if len(keys) == 0 {
		k.refuse(at, "create an identity with `age-keygen -o backup-identity.txt`, keep that file away from the cluster, and put the public key that it prints here (age1…)",
			"backups have no recipients: they hold every key of the cluster, and are never written without encryption")
	}
	var all []age.Recipient
	for i, key := range keys {
		here := fmt.Sprintf("%s[%d]", at, i)
		if strings.HasPrefix(key, "AGE-") {
			// It is not repeated: it has been written where others can read it, but need not be in a log as well.
			k.refuse(here, "put the public key here (age1…), which `age-keygen -y` prints, and create a new identity: this one was written into a file that others may have read", "this is a private key")
			continue
		}
		r, err := parseRecipient(key)
		if err != nil {
			k.refuse(here, "write the public key of age (age1…), or one of SSH (ssh-ed25519 … or ssh-rsa …)", "%v", err)
			continue
		}
		all = append(all, r)
	}
	if len(all) == 0 || len(all) < len(keys) {
		return
	}
	// Some kinds of keys cannot be used together, and only age knows which.
	if _, err := age.Encrypt(io.Discard, all...); err != nil {
		k.refuse(at, "use only keys that begin with age1pq1, or none of them", "nothing can be encrypted to all of these keys together: %v", err)
	}
}

func (k *checker) backupSFTP(s BackupSFTP) {
	const at = backupPath + ".sftp"
	host, port, err := net.SplitHostPort(s.Address)
	n, _ := strconv.Atoi(port)
	switch {
	case s.Address == "":
		k.refuse(at+".address", "write it like backup.example.com, 10.0.0.5:2222, or [fd00::5]:22", "the SFTP server has no address")
	case FamilyOf(s.Address) == IPv6:
		k.refuse(at+".address", fmt.Sprintf("write `%s`", net.JoinHostPort(s.Address, strconv.Itoa(DefaultSSHPort))), "`%s` has no brackets: it is not clear where the address ends and the port begins", s.Address)
	case err != nil || host == "" || strings.Contains(host, ":") && FamilyOf(host) != IPv6 || n < 1 || n > 65535:
		k.refuse(at+".address", "write it like backup.example.com, 10.0.0.5:2222, or [fd00::5]:22", "`%s` is not an address", s.Address)
	}
	for _, f := range []struct{ name, value, fix string }{
		{"user", s.User, "name the user to log in as"},
		{"directory", s.Directory, "name a directory that exists on the server"},
		{"keyFile", s.KeyFile, "name a private key without a passphrase: control planes use it"},
		{"hostKey", s.HostKey, "copy the output of `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the server (SHA256:…): control planes connect to it, and nobody is there to confirm a new key"},
	} {
		if f.value == "" {
			k.refuse(at+"."+f.name, f.fix, "the SFTP server has no %s", f.name)
		}
	}
	if s.HostKey != "" {
		if _, err := hostkey.Parse(s.HostKey); err != nil {
			k.refuse(at+".hostKey", "write the fingerprint as ssh-keygen -l prints it (SHA256:…), or the public key", "`%s`: %v", s.HostKey, err)
		}
	}
}

func (k *checker) backupS3(s BackupS3) {
	const at = backupPath + ".s3"
	const example = "write it like https://s3.example.com"
	u, err := url.Parse(s.Endpoint)
	switch {
	case s.Endpoint == "":
		k.refuse(at+".endpoint", example, "the S3 store has no endpoint")
	case err != nil || u.Host == "":
		k.refuse(at+".endpoint", example, "`%s` is not a URL", s.Endpoint)
	case u.User != nil:
		k.refuse(at+".endpoint", "use credentialsFile", "the endpoint must not contain a password")
	case u.Scheme != "https":
		k.refuse(at+".endpoint", "use https; caFile names a CA of your own", "over `%s`, anyone on the way could replace or remove backups", u.Scheme)
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "":
		k.refuse(at+".endpoint", "use bucket and prefix", "`%s` has more than a host and a port", s.Endpoint)
	}
	if s.InstanceRole && s.CredentialsFile != "" {
		k.refuse(at+".instanceRole", "keep one of instanceRole and credentialsFile", "credentials come either from the role of the machines or from a file")
	}
	if s.Bucket == "" || strings.Contains(s.Bucket, "/") {
		k.refuse(at+".bucket", "name a bucket that exists", "`%s` is not the name of a bucket", s.Bucket)
	}
}
