package backup

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// S3 is a bucket of an S3-compatible store.
type S3 struct {
	Endpoint string `json:"endpoint"` // https://host[:port]
	Bucket   string `json:"bucket"`
	// Prefix is a folder in the bucket.
	Prefix string `json:"prefix,omitempty"`
	Region string `json:"region,omitempty"`
	// CA holds certificates in PEM to trust instead of the system's.
	CA           []byte `json:"ca,omitempty"`
	AccessKey    string `json:"accessKey,omitempty"`
	SecretKey    string `json:"secretKey,omitempty"`
	SessionToken string `json:"sessionToken,omitempty"`
	// InstanceRole says that whoever connects asks the metadata service of its cloud for credentials, and has none of the above.
	InstanceRole bool `json:"instanceRole,omitempty"`
}

func (s *S3) credentials() *credentials.Credentials {
	if s.InstanceRole {
		return credentials.NewIAM("")
	}
	return credentials.NewStaticV4(s.AccessKey, s.SecretKey, s.SessionToken)
}

// partBytes is held in memory while a backup is uploaded. A store takes up to 10,000 parts of an object: 160 GB.
const partBytes = 16 << 20

func (s *S3) connect() (Store, error) {
	u, err := url.Parse(s.Endpoint)
	if err != nil {
		return nil, err
	}
	moved := &transfer{stall: stallTimeout}
	dialer := net.Dialer{Timeout: connectTimeout}
	transport := &http.Transport{TLSHandshakeTimeout: connectTimeout, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return moved.counted(c), nil
		}}
	if len(s.CA) > 0 {
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(s.CA) {
			return nil, errors.New("its CA file holds no certificate")
		}
		transport.TLSClientConfig.RootCAs = roots
	}
	client, err := minio.New(u.Host, &minio.Options{
		Creds: s.credentials(), Secure: u.Scheme == "https", Region: s.Region,
		Transport: transport, BucketLookup: minio.BucketLookupPath, MaxRetries: 5,
	})
	if err != nil {
		return nil, err
	}
	return &s3Store{client: client, bucket: s.Bucket, prefix: strings.Trim(s.Prefix, "/"), moved: moved}, nil
}

type s3Store struct {
	client         *minio.Client
	bucket, prefix string
	moved          *transfer
}

func (s *s3Store) key(name string) string { return path.Join(s.prefix, name) }

// Put is checked after the object has its name: the protocol has no rename, and a copy would not be what was checked. An upload that is interrupted
// makes no object.
func (s *s3Store) Put(ctx context.Context, name string, content io.Reader, check func(io.Reader) error) error {
	err := s.moved.moving(ctx, func(ctx context.Context) error {
		_, err := s.client.PutObject(ctx, s.bucket, s.key(name), whole{s.moved.reader(ctx, content)}, -1, minio.PutObjectOptions{PartSize: partBytes, ContentType: "application/octet-stream"})
		return err
	})
	if err != nil {
		return err
	}
	if err := s.check(ctx, name, check); err != nil {
		if rerr := s.Remove(context.WithoutCancel(ctx), name); rerr != nil {
			return fmt.Errorf("%w; it could not be removed either: %w", err, rerr)
		}
		return err
	}
	return nil
}

func (s *s3Store) check(ctx context.Context, name string, check func(io.Reader) error) error {
	in, err := s.Open(ctx, name, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	return check(in)
}

// Sweep aborts uploads whose parts take space without being an object.
func (s *s3Store) Sweep(ctx context.Context, of Name) (aborted []string, _ error) {
	err := s.moved.moving(ctx, func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		for u := range s.client.ListIncompleteUploads(ctx, s.bucket, s.key(of.Cluster+"."), true) {
			if u.Err != nil {
				if minio.ToErrorResponse(u.Err).Code == minio.NotImplemented {
					return nil // then there is nothing to do about it either
				}
				return u.Err
			}
			if n, ok := ParseName(path.Base(u.Key)); !ok || u.Key != s.key(path.Base(u.Key)) || !n.Same(of) {
				continue
			}
			if err := (minio.Core{Client: s.client}).AbortMultipartUpload(ctx, s.bucket, u.Key, u.UploadID); err != nil {
				return fmt.Errorf("aborting the upload of %s: %w", path.Base(u.Key), err)
			}
			aborted = append(aborted, "an interrupted upload of "+path.Base(u.Key))
		}
		return nil
	})
	return aborted, err
}

// whole keeps the client from taking a stream that broke for one that ended: it takes io.ErrUnexpectedEOF for the end.
type whole struct{ io.Reader }

func (w whole) Read(b []byte) (int, error) {
	n, err := w.Reader.Read(b)
	if err != nil && err != io.EOF { //nolint:errorlint // what wraps the end is not the end
		err = fmt.Errorf("reading the backup: %v", err) //nolint:errorlint // the client must not find out what it is
	}
	return n, err
}

func (s *s3Store) List(ctx context.Context) (out []Entry, _ error) {
	err := s.moved.moving(ctx, func(ctx context.Context) (err error) {
		out, err = s.list(ctx)
		return err
	})
	return out, err
}

func (s *s3Store) list(ctx context.Context) ([]Entry, error) {
	prefix := s.prefix
	if prefix != "" {
		prefix += "/"
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out := []Entry{}
	for o := range s.client.ListObjects(ctx, s.bucket, minio.ListObjectsOptions{Prefix: prefix}) {
		if o.Err != nil {
			return nil, o.Err
		}
		if e, ok := entry(strings.TrimPrefix(o.Key, prefix), o.Size); ok {
			out = append(out, e)
		}
	}
	Newest(out)
	return out, nil
}

func (s *s3Store) Open(ctx context.Context, name string, offset int64) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancel(ctx)
	moved := &transfer{stall: s.moved.stall, abort: cancel}
	var body io.ReadCloser
	err := moved.opening(func() (err error) {
		body, err = s.open(ctx, name, offset)
		return err
	})
	if err != nil {
		cancel()
		return nil, err
	}
	return readCloser{moved.reader(ctx, body), ending{body, cancel}}, nil
}

func (s *s3Store) open(ctx context.Context, name string, offset int64) (io.ReadCloser, error) {
	info, err := s.client.StatObject(ctx, s.bucket, s.key(name), minio.StatObjectOptions{})
	if err != nil {
		return nil, err
	}
	if offset >= info.Size { // there is no range to ask for
		return http.NoBody, nil
	}
	var o minio.GetObjectOptions
	if offset > 0 {
		if err := o.SetRange(offset, 0); err != nil {
			return nil, fmt.Errorf("offset %d: %w", offset, err)
		}
	}
	// Of the core client: the other one reads again and again from where it thinks that it is.
	body, _, _, err := minio.Core{Client: s.client}.GetObject(ctx, s.bucket, s.key(name), o)
	return body, err
}

// ending ends the context of a request with its body.
type ending struct {
	io.Closer
	cancel context.CancelFunc
}

func (e ending) Close() error {
	e.cancel()
	return e.Closer.Close()
}

func (s *s3Store) Remove(ctx context.Context, name string) error {
	return s.moved.moving(ctx, func(ctx context.Context) error {
		return s.client.RemoveObject(ctx, s.bucket, s.key(name), minio.RemoveObjectOptions{})
	})
}

func (s *s3Store) Close() error { return nil }
