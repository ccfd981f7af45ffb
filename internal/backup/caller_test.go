package backup

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"quorate.dev/quorate/internal/host/sshtest"
	"quorate.dev/quorate/internal/spec"
)

func file(t *testing.T, content string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestCredentialsOfS3(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	s3 := spec.BackupS3{Endpoint: "https://s", Bucket: "b"}
	if _, err := LocationOf(spec.Backup{S3: s3}); err == nil {
		t.Error("no credentials are accepted")
	}
	for name, text := range map[string]string{
		"a profile":  "# mine\n[other]\naws_access_key_id = WRONG\n[default]\naws_access_key_id = ID\naws_secret_access_key=SECRET=\n",
		"no profile": "aws_access_key_id=ID\naws_secret_access_key = SECRET=\n",
	} {
		s3.CredentialsFile = file(t, text)
		l, err := LocationOf(spec.Backup{S3: s3})
		if err != nil || l.S3.AccessKey != "ID" || l.S3.SecretKey != "SECRET=" {
			t.Errorf("%s: %+v %v", name, l, err)
		}
	}
	s3.CredentialsFile = file(t, "[other]\naws_access_key_id=ID\naws_secret_access_key=SECRET\n")
	if _, err := LocationOf(spec.Backup{S3: s3}); err == nil || strings.Contains(err.Error(), "SECRET") {
		t.Errorf("another profile: %v", err)
	}
	s3.CredentialsFile = ""
	t.Setenv("AWS_ACCESS_KEY_ID", "ID")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "SECRET")
	if l, err := LocationOf(spec.Backup{S3: s3}); err != nil || l.S3.SecretKey != "SECRET" {
		t.Errorf("from the environment: %v", err)
	}
	s3.InstanceRole = true
	if l, err := LocationOf(spec.Backup{S3: s3}); err != nil || !l.S3.InstanceRole || l.S3.AccessKey != "" || l.S3.SecretKey != "" {
		t.Errorf("of the role of the hosts, with credentials in the environment that are not theirs: %+v %v", l.S3, err)
	}
}

func TestKeysOfSFTP(t *testing.T) {
	plain, _, err := sshtest.NewKey(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	locked, _, err := sshtest.NewKey(t.TempDir(), "secret")
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{plain: "", locked: "passphrase", file(t, "x"): "not a private key", "/nowhere": "no such file"} {
		_, err := LocationOf(spec.Backup{SFTP: spec.BackupSFTP{Address: "h:22", KeyFile: key}})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

func TestIdentities(t *testing.T) {
	native := identity(t)
	key, public, err := sshtest.NewKey(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	recipients, err := spec.ParseRecipients([]string{native.Recipient().String(), strings.TrimSpace(string(ssh.MarshalAuthorizedKey(public)))})
	if err != nil {
		t.Fatal(err)
	}
	var sealed bytes.Buffer
	if err := Write(&sealed, recipients, manifest(), nil); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{file(t, "# created: today\n"+native.String()+"\n"), key} {
		ids, err := ReadIdentities(name)
		if err != nil {
			t.Fatal(err)
		}
		r, err := Open(bytes.NewReader(sealed.Bytes()), ids...)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		r.Close()
	}
	locked, _, err := sshtest.NewKey(t.TempDir(), "secret")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{file(t, ""), file(t, "AGE-SECRET-KEY-1NOTONE"), locked, "/nowhere"} {
		if _, err := ReadIdentities(name); err == nil || strings.Contains(err.Error(), "NOTONE") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
