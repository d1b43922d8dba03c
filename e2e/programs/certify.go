package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/encoding/protowire"
)

// The method of the certificate authority: mesh-api/proto/mesh/v1/identity.proto.
const certifyMethod = "/mesh.v1.Identity/Certify"

// Longest that a call or a handshake takes.
const certifyDeadline = 15 * time.Second

// certify asks the mesh's certificate authority for a certificate, as a sidecar does, with any token and any request. It
// prints who it is by the answer, and by the certificate; with -out it writes both files of a TLS client.
func certify(args []string) error {
	flags := flag.NewFlagSet("certify", flag.ExitOnError)
	address := flags.String("address", "mesh-ca.mesh-system.svc.cluster.local:15410", "the certificate authority")
	roots := flags.String("roots", "/var/run/secrets/mesh/roots.pem", "file of roots to trust")
	file := flags.String("token-file", "/var/run/secrets/mesh/token", "file of a token")
	token := flags.String("token", "", "a token, instead of the file's")
	uri := flags.String("uri", "", "name to ask for in the request")
	dns := flags.String("dns", "", "DNS name to ask for in the request")
	out := flags.String("out", "", "folder for cert.pem and key.pem")
	_ = flags.Parse(args)
	if *token == "" {
		text, err := os.ReadFile(*file)
		if err != nil {
			return err
		}
		*token = string(text)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	csr, err := signingRequest(key, *uri, *dns)
	if err != nil {
		return err
	}
	config, err := authorityTLS(*roots)
	if err != nil {
		return err
	}
	connection, err := grpc.NewClient("dns:///"+*address, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), certifyDeadline)
	defer cancel()
	request := protowire.AppendTag(nil, 1, protowire.BytesType)
	request = protowire.AppendString(request, strings.TrimSpace(*token))
	request = protowire.AppendTag(request, 2, protowire.BytesType)
	request = protowire.AppendBytes(request, csr)
	var answer []byte
	if err := connection.Invoke(ctx, certifyMethod, &request, &answer, grpc.ForceCodec(rawCodec{})); err != nil {
		return err
	}
	chain, identity, err := certified(answer)
	if err != nil {
		return err
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return err
	}
	say("identity %s", identity)
	for _, name := range leaf.URIs {
		say("uri %s", name)
	}
	for _, name := range leaf.DNSNames {
		say("dns %s", name)
	}
	if *out == "" {
		return nil
	}
	return writePair(*out, chain, key)
}

func signingRequest(key *ecdsa.PrivateKey, uri, dns string) ([]byte, error) {
	template := &x509.CertificateRequest{}
	if uri != "" {
		name, err := url.Parse(uri)
		if err != nil {
			return nil, err
		}
		template.Subject = pkix.Name{CommonName: uri}
		template.URIs = []*url.URL{name}
	}
	if dns != "" {
		template.DNSNames = []string{dns}
	}
	return x509.CreateCertificateRequest(rand.Reader, template, key)
}

// authorityTLS trusts what has a certificate of the roots; who it is does not matter here.
func authorityTLS(file string) (*tls.Config, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("no certificates in %s", file)
	}
	verify := func(state tls.ConnectionState) error {
		options := x509.VerifyOptions{Roots: roots, Intermediates: x509.NewCertPool()}
		for _, one := range state.PeerCertificates[1:] {
			options.Intermediates.AddCert(one)
		}
		_, err := state.PeerCertificates[0].Verify(options)
		return err
	}
	// The names of the mesh are URIs, which Go does not look at.
	return &tls.Config{InsecureSkipVerify: true, VerifyConnection: verify, MinVersion: tls.VersionTLS13}, nil
}

// certified reads the answer: the chain, leaf first, and the identity.
func certified(answer []byte) (chain [][]byte, identity string, err error) {
	for len(answer) > 0 {
		number, kind, size := protowire.ConsumeTag(answer)
		if size < 0 {
			return nil, "", protowire.ParseError(size)
		}
		answer = answer[size:]
		if kind != protowire.BytesType {
			return nil, "", fmt.Errorf("field %d is of an unknown kind", number)
		}
		value, size := protowire.ConsumeBytes(answer)
		if size < 0 {
			return nil, "", protowire.ParseError(size)
		}
		answer = answer[size:]
		switch number {
		case 1:
			chain = append(chain, value)
		case 3:
			identity = string(value)
		}
	}
	if len(chain) == 0 {
		return nil, "", errors.New("an answer without a certificate")
	}
	return chain, identity, nil
}

func writePair(folder string, chain [][]byte, key *ecdsa.PrivateKey) error {
	var certificates []byte
	for _, der := range chain {
		certificates = append(certificates, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(folder, "cert.pem"), certificates, 0o600); err != nil {
		return err
	}
	private := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return os.WriteFile(filepath.Join(folder, "key.pem"), private, 0o600)
}

// rawCodec leaves messages as they are.
type rawCodec struct{}

func (rawCodec) Marshal(message any) ([]byte, error) { return *message.(*[]byte), nil }

func (rawCodec) Unmarshal(data []byte, message any) error {
	*message.(*[]byte) = append([]byte(nil), data...)
	return nil
}

func (rawCodec) Name() string { return "proto" }

// tlsProbe connects as a sidecar does, with a certificate of its own, and prints whether the other side takes it: a
// sidecar that does sends its HTTP/2 settings at once.
func tlsProbe(args []string) error {
	flags := flag.NewFlagSet("tls-probe", flag.ExitOnError)
	address := flags.String("address", "", "where to")
	pair := flags.String("pair", "", "folder of cert.pem and key.pem")
	forge := flags.String("forge", "", "name in a certificate of an authority that nobody knows")
	_ = flags.Parse(args)
	config := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: []string{"mesh-http/1"}}
	switch {
	case *pair != "":
		own, err := tls.LoadX509KeyPair(filepath.Join(*pair, "cert.pem"), filepath.Join(*pair, "key.pem"))
		if err != nil {
			return err
		}
		config.GetClientCertificate = always(own)
	case *forge != "":
		own, err := forged(*forge)
		if err != nil {
			return err
		}
		config.GetClientCertificate = always(own)
	}
	dialer := &tls.Dialer{NetDialer: &net.Dialer{Timeout: certifyDeadline}, Config: config}
	ctx, cancel := context.WithTimeout(context.Background(), certifyDeadline)
	defer cancel()
	connection, err := dialer.DialContext(ctx, "tcp", *address)
	if err != nil {
		say("refused %v", err)
		return nil
	}
	defer connection.Close()
	// An HTTP/2 client's preface, and empty settings (RFC 9113 section 3.4).
	_, _ = connection.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"))
	_ = connection.SetReadDeadline(time.Now().Add(certifyDeadline))
	if _, err := connection.Read(make([]byte, 9)); err != nil {
		say("refused %v", err)
		return nil
	}
	say("accepted")
	return nil
}

// always sends this certificate, also where the server names no authority that it has it from.
func always(own tls.Certificate) func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &own, nil }
}

// forged makes a certificate that is right in everything but who signed it.
func forged(uri string) (tls.Certificate, error) {
	name, err := url.Parse(uri)
	if err != nil {
		return tls.Certificate{}, err
	}
	authority := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "forger"},
		NotBefore:             time.Now().Add(-time.Minute),
		NotAfter:              time.Now().Add(time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	authorityKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf := &x509.Certificate{
		SerialNumber:          big.NewInt(2),
		NotBefore:             authority.NotBefore,
		NotAfter:              authority.NotAfter,
		URIs:                  []*url.URL{name},
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, authority, &key.PublicKey, authorityKey)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
