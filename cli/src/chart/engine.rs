//! Renders the templates of a chart as Helm does.
//!
//! The language is Go's, by `gtmpl_ng`; its functions get nothing but their arguments, so what `include` needs is found
//! through the thread while a chart is rendered.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    rc::Rc,
};

use gtmpl_ng::{Context, FuncError, Template, Value};

use super::{embedded::Files, functions};

/// Includes within includes.
const MAX_DEPTH: u32 = 32;

thread_local! {
    static CURRENT: RefCell<Option<Rc<Library>>> = const { RefCell::new(None) };
}

/// The templates of the chart that is being rendered.
struct Library {
    files: BTreeMap<String, &'static str>,
    /// Ready to run, by the name that they start with.
    ready: RefCell<HashMap<String, Rc<Template>>>,
    depth: Cell<u32>,
}

impl Library {
    fn template(&self, name: &str) -> Result<Rc<Template>, String> {
        if let Some(ready) = self.ready.borrow().get(name) {
            return Ok(Rc::clone(ready));
        }
        let mut template = Template::default();
        template.add_funcs(functions::ALL);
        template.add_func("include", include);
        for (path, text) in &self.files {
            template.add_template(path.as_str(), *text).map_err(|error| format!("{path}: {error}"))?;
        }
        name.clone_into(&mut template.name);
        let template = Rc::new(template);
        self.ready.borrow_mut().insert(name.to_owned(), Rc::clone(&template));
        Ok(template)
    }

    fn run(&self, name: &str, dot: Value) -> Result<String, String> {
        if self.depth.get() >= MAX_DEPTH {
            return Err(format!("{name}: includes go around in circles"));
        }
        self.depth.set(self.depth.get() + 1);
        let text = self.template(name)?.render(&Context::from(dot)).map_err(|error| format!("{name}: {error}"));
        self.depth.set(self.depth.get() - 1);
        // Helm shows nothing for what is not there.
        text.map(|text| text.replace("<no value>", ""))
    }
}

/// Every template that gives objects, rendered with `context` as its dot, with its path.
pub fn render(files: &Files, context: &serde_json::Value) -> Result<Vec<(String, String)>, String> {
    let files: BTreeMap<String, _> = files.templates().map(|(path, text)| (path.to_owned(), text)).collect();
    let wanted: Vec<String> = files.keys().filter(|path| gives_objects(path)).cloned().collect();
    let library = Rc::new(Library { files, ready: RefCell::default(), depth: Cell::new(0) });
    let context = functions::from_json(context);
    let _current = Current::set(Rc::clone(&library));
    wanted.into_iter().map(|path| library.run(&path, context.clone()).map(|text| (path, text))).collect()
}

fn gives_objects(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    !name.starts_with('_') && name.ends_with(".yaml")
}

/// Takes the library away again, however rendering ends.
struct Current;

impl Current {
    fn set(library: Rc<Library>) -> Self {
        CURRENT.with(|current| current.replace(Some(library)));
        Self
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        CURRENT.with(|current| current.replace(None));
    }
}

/// `include NAME DOT`: what the named template gives.
fn include(args: &[Value]) -> Result<Value, FuncError> {
    let [Value::String(name), dot] = args else {
        return Err(FuncError::ExactlyXArgs("include".to_owned(), 2));
    };
    let library = CURRENT.with(|current| current.borrow().clone());
    let library = library.ok_or_else(|| FuncError::Generic("include outside of a chart".to_owned()))?;
    library.run(name, dot.clone()).map(Value::String).map_err(FuncError::Generic)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rendered(template: &'static str, helpers: &'static str) -> Result<String, String> {
        let files = Files::of(&[("templates/a.yaml", template), ("templates/_h.tpl", helpers)]);
        let context =
            json!({ "Values": { "n": 3, "f": 0.01, "text": "a b", "list": ["x"], "none": [], "deep": { "k": "v" } } });
        let all = render(&files, &context)?;
        assert_eq!(all.len(), 1);
        Ok(all[0].1.clone())
    }

    #[test]
    fn what_charts_use_is_as_in_helm() {
        for (template, wanted) in [
            ("{{ .Values.n }} {{ .Values.f }} {{ .Values.text | quote }}", "3 0.01 \"a b\""),
            ("[{{ .Values.missing.deeper }}]", "[]"),
            ("{{ default \"d\" .Values.missing }}{{ default \"d\" \"\" }}{{ default \"d\" \"x\" }}", "ddx"),
            ("{{ ternary \"yes\" \"no\" true }}{{ ternary \"yes\" \"no\" false }}", "yesno"),
            ("a:{{ \"x\\ny\" | nindent 2 }}", "a:\n  x\n  y"),
            ("{{ \"x\\ny\" | indent 2 }}", "  x\n  y"),
            ("{{ include \"h\" (dict \"root\" $ \"k\" \"v\") }}", "v-3"),
            ("{{ with .Values.none }}some{{ else }}none{{ end }}", "none"),
            ("{{ range .Values.list }}<{{ . }}>{{ end }}", "<x>"),
            ("{{ if and (eq .Values.text \"a b\") (gt (int .Values.n) 1) }}big{{ end }}", "big"),
            ("{{ if hasKey .Values.deep \"k\" }}has{{ end }}", "has"),
            ("{{ printf \"%s-%s\" \"a\" \"b\" }}", "a-b"),
            ("{{ \"x\" | sha256sum }}", "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"),
            ("{{- /* nothing */ -}}\n{{- $v := .Values -}}\nv: {{ $v.n }}", "v: 3"),
        ] {
            let helpers = "{{- define \"h\" -}}\n{{ .k }}-{{ .root.Values.n }}\n{{- end -}}";
            assert_eq!(rendered(template, helpers).as_deref(), Ok(wanted), "{template}");
        }
    }

    #[test]
    fn a_structure_becomes_yaml_that_reads_back() {
        let text = rendered(
            "a:\n  first: 1\n  {{- toYaml .Values.deep | nindent 2 }}\nb:\n  {{- toYaml .Values.list | nindent 2 }}",
            "",
        );
        let value = super::super::yaml::one(&text.unwrap()).unwrap();
        assert_eq!(value, json!({ "a": { "first": 1, "k": "v" }, "b": ["x"] }));
    }

    #[test]
    fn mistakes_of_a_chart_are_told() {
        assert!(rendered("{{ required \"say n\" .Values.missing }}", "").unwrap_err().contains("say n"));
        assert!(rendered("{{ include \"nobody\" . }}", "").unwrap_err().contains("nobody"));
        let circle = "{{ define \"c\" }}{{ include \"c\" . }}{{ end }}";
        assert!(rendered("{{ include \"c\" . }}", circle).unwrap_err().contains("circles"));
        assert!(rendered("{{ if }}", "").unwrap_err().contains("templates/a.yaml"));
    }
}
