package host

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// A connection from a host to another address is one HTTP/2 stream. Bytes to the remote end are the body of the request;
// its end is the end of what the caller writes. The reply consists of frames, so that the end of what the remote end
// writes and the failure of the connection are two different things, and neither ends the other direction:
//
//	byte    0: data, 1: the remote end writes no more, 2: the connection failed
//	uint32  length of what follows: the data, or the failure in JSON
const (
	frameData = iota
	frameEnd
	frameFailure

	frameHeader = 5
	// frameSize is how much one frame carries. A larger one is an error, because the host is not trusted.
	frameSize = 64 << 10
)

const (
	dialOp = "dial"
	// lingerTimeout is how long the last bytes that were written to a closed connection may take.
	lingerTimeout = time.Second
)

type dialRequest struct {
	Network string `json:"network"`
	Address string `json:"address"`
	// Timeout is how long the caller waits for the connection; 0 for no limit.
	Timeout time.Duration `json:"timeout,omitempty"`
}

type failure struct {
	Message string `json:"message"`
	Cause   string `json:"cause,omitempty"`
}

// DialContext opens a TCP connection from the host to addr, as a stream of the session. The host resolves a name in addr.
// If the host cannot connect, the error is an *Error with its reason; if the host could not be asked, it is a
// *SessionError. The connection supports deadlines and has the method CloseWrite.
func (c *Conn) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	s, err := c.session(ctx)
	if err != nil {
		return nil, err
	}
	in := dialRequest{Network: network, Address: addr}
	if deadline, ok := ctx.Deadline(); ok {
		// The host gives up a little earlier than the caller, so that a timeout is an answer of the host and does not look
		// like a lost host.
		left := time.Until(deadline)
		in.Timeout = max(left-left/8, time.Millisecond)
	}
	req, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	// The stream outlives ctx, which applies only to opening it.
	life, end := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { end(context.Cause(ctx)) })
	toRemote, toWrite := net.Pipe()
	body := struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(req), toRemote), toRemote}
	r, err := http.NewRequestWithContext(life, http.MethodPost, "http://host/"+dialOp, body)
	if err != nil {
		stop()
		end(nil)
		return nil, err
	}
	resp, err := s.http.RoundTrip(r)
	if !stop() && err == nil {
		resp.Body.Close()
		err = context.Cause(ctx)
	}
	if err == nil && resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		err := c.readError(resp, dialOp)
		end(nil)
		toRemote.Close()
		return nil, err
	}
	if err != nil {
		end(nil)
		toRemote.Close()
		return nil, c.unanswered(ctx, s, "connecting to "+addr, err)
	}
	fromRemote, toRead := net.Pipe()
	conn := &stream{conn: c, session: s, addr: addr, read: fromRemote, write: toWrite, end: end}
	go conn.pump(resp.Body, toRead)
	return conn, nil
}

// Direct is the proxy function of clients for cluster traffic: they never use a proxy. The proxy in the environment is for
// downloads, and does not reach the cluster.
func Direct(*http.Request) (*url.URL, error) { return nil, nil }

// stream is the caller's end of a connection from a host. The two pipes bring deadlines and the half-close.
type stream struct {
	conn        *Conn
	session     *session
	addr        string
	read, write net.Conn
	end         context.CancelCauseFunc
	once        sync.Once

	mu   sync.Mutex
	fail error // why the connection ended, unless it was closed
}

// pump passes what the host sends to the reader, until the connection ends.
func (s *stream) pump(body io.ReadCloser, to net.Conn) {
	defer to.Close()
	defer body.Close()
	err := s.frames(body, to)
	if errors.Is(err, io.EOF) {
		return
	}
	s.mu.Lock()
	s.fail = err
	s.mu.Unlock()
	s.write.Close()
}

// frames returns io.EOF at the orderly end.
func (s *stream) frames(body io.Reader, to net.Conn) error {
	var header [frameHeader]byte
	buf := make([]byte, frameSize)
	ended := false
	for {
		if _, err := io.ReadFull(body, header[:]); err != nil {
			if errors.Is(err, io.EOF) && ended {
				return io.EOF
			}
			return s.conn.unanswered(context.Background(), s.session, "the connection to "+s.addr, err)
		}
		size := binary.BigEndian.Uint32(header[1:])
		if size > frameSize {
			return &SessionError{Host: s.conn.name, Op: "the connection to " + s.addr, Err: fmt.Errorf("a frame of %d bytes", size)}
		}
		data := buf[:size]
		if _, err := io.ReadFull(body, data); err != nil {
			return s.conn.unanswered(context.Background(), s.session, "the connection to "+s.addr, err)
		}
		switch header[0] {
		case frameData:
			if _, err := to.Write(data); err != nil {
				return err // the caller has closed the connection
			}
		case frameEnd:
			ended = true
			to.Close()
		case frameFailure:
			var f failure
			if err := json.Unmarshal(data, &f); err != nil {
				f.Message = "the connection failed"
			}
			return &Error{Host: s.conn.name, Op: dialOp, Message: f.Message, cause: causeOf(f.Cause)}
		}
	}
}

func (s *stream) Read(b []byte) (int, error) {
	n, err := s.read.Read(b)
	return n, s.explain(err, io.EOF)
}

func (s *stream) Write(b []byte) (int, error) {
	n, err := s.write.Write(b)
	return n, s.explain(err, io.ErrClosedPipe)
}

// explain replaces the error of a closed pipe with the reason why it was closed.
func (s *stream) explain(err, ended error) error {
	if !errors.Is(err, ended) {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	return err
}

// CloseWrite tells the remote end that nothing more will be written. Reading goes on.
func (s *stream) CloseWrite() error { return s.write.Close() }

// Close ends the connection. What was written before is still sent.
func (s *stream) Close() error {
	s.once.Do(func() {
		s.write.Close()
		s.read.Close()
		time.AfterFunc(lingerTimeout, func() { s.end(net.ErrClosed) })
	})
	return nil
}

func (s *stream) LocalAddr() net.Addr                { return streamAddr(s.conn.name) }
func (s *stream) RemoteAddr() net.Addr               { return streamAddr(s.addr) }
func (s *stream) SetReadDeadline(t time.Time) error  { return s.read.SetReadDeadline(t) }
func (s *stream) SetWriteDeadline(t time.Time) error { return s.write.SetWriteDeadline(t) }
func (s *stream) SetDeadline(t time.Time) error {
	return errors.Join(s.SetReadDeadline(t), s.SetWriteDeadline(t))
}

type streamAddr string

func (streamAddr) Network() string  { return "tcp" }
func (a streamAddr) String() string { return string(a) }

// serveDial is the host side of a connection.
func (l *Limits) serveDial(w http.ResponseWriter, r *http.Request) {
	dec := json.NewDecoder(r.Body)
	var in dialRequest
	if err := dec.Decode(&in); err != nil {
		http.Error(w, "reading the request: "+err.Error(), http.StatusBadRequest)
		return
	}
	if l != nil {
		if err := l.Dial(in.Network, in.Address); err != nil {
			writeError(w, err)
			return
		}
	}
	ctx, cancel := r.Context(), context.CancelFunc(func() {})
	if in.Timeout > 0 {
		ctx, cancel = context.WithTimeout(ctx, in.Timeout)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, in.Network, in.Address)
	cancel()
	if err != nil {
		writeError(w, err)
		return
	}
	defer conn.Close()
	stop := context.AfterFunc(r.Context(), func() { conn.Close() })
	defer stop()
	flush := http.NewResponseController(w)
	w.WriteHeader(http.StatusOK)
	if flush.Flush() != nil {
		return
	}
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(conn, io.MultiReader(dec.Buffered(), r.Body))
		if half, ok := conn.(interface{ CloseWrite() error }); ok && err == nil {
			err = half.CloseWrite()
		}
		sent <- err
		if err != nil {
			conn.Close() // ends the other direction, which reports the failure
		}
	}()
	err = sendFrames(w, flush, conn)
	if err == nil {
		err = <-sent
	} else {
		select {
		case first := <-sent:
			if first != nil {
				err = first // reading failed because writing had failed
			}
		default:
		}
	}
	if err != nil && r.Context().Err() == nil {
		data, merr := json.Marshal(failure{Message: fmt.Sprintf("the connection to %s: %v", in.Address, err), Cause: causeName(err)})
		if merr == nil && len(data) <= frameSize {
			w.Write(frame(make([]byte, frameHeader, frameHeader+len(data)), frameFailure, data)) //nolint:errcheck // nobody is left to tell
		}
	}
}

// frame puts the header in front of the data, for which b has room.
func frame(b []byte, kind byte, data []byte) []byte {
	b = append(b[:frameHeader], data...)
	b[0] = kind
	binary.BigEndian.PutUint32(b[1:], uint32(len(data)))
	return b
}

// sendFrames sends what the remote end writes, and its end.
func sendFrames(w io.Writer, flush *http.ResponseController, from io.Reader) error {
	buf := make([]byte, frameHeader+frameSize/2)
	for {
		n, err := from.Read(buf[frameHeader:])
		if n > 0 {
			buf[0] = frameData
			binary.BigEndian.PutUint32(buf[1:], uint32(n))
			if _, err := w.Write(buf[:frameHeader+n]); err != nil {
				return err
			}
			if err := flush.Flush(); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			if _, err := w.Write(frame(buf, frameEnd, nil)); err != nil {
				return err
			}
			return flush.Flush()
		}
		if err != nil {
			return err
		}
	}
}
