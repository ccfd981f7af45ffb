package system

import (
	"net"
	"os"
)

// Notify reports the state of this service to systemd, as sd_notify(3) describes, if systemd requested it (Type=notify).
func Notify(state string) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	conn, err := net.Dial("unixgram", path)
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = conn.Write([]byte(state)) // systemd notices when nothing arrives
}
