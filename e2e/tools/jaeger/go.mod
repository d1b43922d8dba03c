module jaeger

go 1.26.8
