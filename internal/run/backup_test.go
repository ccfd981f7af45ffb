package run

import (
	"strings"
	"testing"
	"time"

	"quorate.dev/quorate/internal/backup"
)

// Two clusters with the same name, and a copy that was restored, share a store.
func TestBackupsOfOtherClustersAreKeptApart(t *testing.T) {
	const uid, etcd = "1a2b3c4d-5e6f", "5e6f7a8b00112233"
	at := func(cluster, uid, etcd string, hour int) StoredBackup {
		n := backup.Name{Cluster: cluster, UID: uid, Etcd: etcd, Time: time.Date(2026, 3, 4, hour, 0, 0, 0, time.UTC), Host: "cp-a"}
		return StoredBackup{Entry: backup.Entry{Name: n, File: n.String()}}
	}
	old, newer := at("prod", "1a2b3c4d", "5e6f7a8b", 1), at("prod", "1a2b3c4d", "5e6f7a8b", 2)
	original, namesake, stranger := at("prod", "1a2b3c4d", "ffffffff", 3), at("prod", "ffffffff", "ffffffff", 4), at("test", "1a2b3c4d", "5e6f7a8b", 5)
	all := func() []StoredBackup { return []StoredBackup{old, original, stranger, newer, namesake} }

	s := listed("prod", uid, etcd, all())
	if len(s.Backups) != 2 || s.Backups[0].File != newer.File || len(s.Others) != 2 || s.Unidentified {
		t.Errorf("%+v", s)
	}
	if b, err := s.find(""); err != nil || b.File != newer.File {
		t.Errorf("the newest is %s, %v", b.File, err)
	}
	if b, err := s.find(original.File); err != nil || b.File != original.File {
		t.Errorf("what it was restored from cannot be read: %v", err)
	}
	if _, err := s.find(stranger.File); err == nil {
		t.Error("a backup of another cluster is found")
	}
	s = listed("prod", "", "", all())
	if len(s.Backups) != 4 || !s.Unidentified {
		t.Errorf("while etcd is down: %+v", s)
	}
	if _, err := s.find(""); err == nil || !strings.Contains(err.Error(), "several clusters") {
		t.Errorf("the newest backup of any cluster is taken: %v", err)
	}
	if b, err := s.find(old.File); err != nil || b.File != old.File {
		t.Errorf("%s %v", b.File, err)
	}
	if b, err := listed("prod", "", "", []StoredBackup{old, newer}).find(""); err != nil || b.File != newer.File {
		t.Errorf("while etcd is down, and there is no other cluster: %v", err)
	}
	if _, err := listed("prod", uid, etcd, nil).find(""); err == nil || !strings.Contains(err.Error(), "`quorate backup`") {
		t.Errorf("%v", err)
	}
}
