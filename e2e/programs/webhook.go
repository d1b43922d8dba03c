package main

import (
	"encoding/json"
	"flag"
	"io"
	"net/http"
)

// Largest review that is read.
const maxReview = 4 << 20

type review struct {
	APIVersion string    `json:"apiVersion"`
	Kind       string    `json:"kind"`
	Request    *question `json:"request,omitempty"`
	Response   *verdict  `json:"response,omitempty"`
}

type question struct {
	UID    string `json:"uid"`
	Object struct {
		Metadata struct {
			Labels      map[string]string `json:"labels"`
			Annotations map[string]string `json:"annotations"`
		} `json:"metadata"`
	} `json:"object"`
}

type verdict struct {
	UID       string  `json:"uid"`
	Allowed   bool    `json:"allowed"`
	Status    *reason `json:"status,omitempty"`
	PatchType string  `json:"patchType,omitempty"`
	Patch     []byte  `json:"patch,omitempty"`
}

type reason struct {
	Message string `json:"message"`
}

// webhook is an admission webhook: /mutate gives every object the annotation e2e.mesh.dev/seen, /validate refuses those
// with the label e2e.mesh.dev/refuse.
func webhook(args []string) error {
	flags := flag.NewFlagSet("webhook", flag.ExitOnError)
	address := flags.String("listen", ":8443", "address to listen on")
	certificate := flags.String("cert", "/certs/tls.crt", "file of the certificate")
	key := flags.String("key", "/certs/tls.key", "file of the key")
	_ = flags.Parse(args)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ready", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /mutate", reviewed(mutate))
	mux.HandleFunc("POST /validate", reviewed(validate))
	listener, err := listen(*address)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: mux, ReadHeaderTimeout: stepDeadline}
	ctx, cancel := terminated()
	defer cancel()
	go func() {
		<-ctx.Done()
		_ = server.Close()
	}()
	if err := server.ServeTLS(listener, *certificate, *key); err != http.ErrServerClosed {
		return err
	}
	return nil
}

func reviewed(decide func(*question) (*verdict, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var in review
		if err := json.NewDecoder(io.LimitReader(r.Body, maxReview)).Decode(&in); err != nil || in.Request == nil {
			http.Error(w, "no review", http.StatusBadRequest)
			return
		}
		out, err := decide(in.Request)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		out.UID = in.Request.UID
		say("%s %s allowed=%v", r.URL.Path, in.Request.UID, out.Allowed)
		w.Header().Set("content-type", "application/json")
		_ = json.NewEncoder(w).Encode(review{APIVersion: in.APIVersion, Kind: in.Kind, Response: out})
	}
}

func mutate(asked *question) (*verdict, error) {
	type operation struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value any    `json:"value"`
	}
	annotations := asked.Object.Metadata.Annotations
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations["e2e.mesh.dev/seen"] = "yes"
	patch, err := json.Marshal([]operation{{"add", "/metadata/annotations", annotations}})
	return &verdict{Allowed: true, PatchType: "JSONPatch", Patch: patch}, err
}

func validate(asked *question) (*verdict, error) {
	if _, refuse := asked.Object.Metadata.Labels["e2e.mesh.dev/refuse"]; refuse {
		return &verdict{Status: &reason{Message: "it has the label that is refused"}}, nil
	}
	return &verdict{Allowed: true}, nil
}
