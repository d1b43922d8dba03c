//! `mesh-cluster`: a real Kubernetes on this machine, for tests and for trying things out.

use std::{
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use mesh_e2e::{
    cluster::{self, Cluster, parts},
    oci::Image,
    tools,
};

/// A real Kubernetes on this machine, in namespaces of its own.
#[derive(Parser)]
#[command(name = "mesh-cluster")]
struct Arguments {
    /// Which cluster.
    #[arg(long, global = true, env = "E2E_CLUSTER", default_value = "mesh")]
    name: String,
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Make the cluster; one that is up already stays as it is.
    Up {
        /// How many nodes it has.
        #[arg(long, default_value_t = 1)]
        nodes: u8,
    },
    /// Remove the cluster, or what is left of it, and look whether anything stays behind.
    Down,
    /// Say whether it is up, and where things are.
    Status,
    /// Build everything that a cluster is made of, and make none.
    Build,
    /// Import image archives into every node.
    Load {
        /// OCI or Docker archives.
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    /// Run kubectl.
    #[command(disable_help_flag = true)]
    Kubectl {
        /// Its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run a shell, or another program, that kubectl and helm just work in.
    Shell {
        /// The program and its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Build what can be used beside the mesh: Helm, and images of Jaeger and Prometheus; print where they are.
    Tools {
        /// Import the images, and that of the suite's own programs, into every node.
        #[arg(long)]
        load: bool,
    },
    /// Run a program in a node's namespaces, or in the fabric's: the network outside of the nodes.
    Exec {
        /// `node-1` and so on, or `fabric`.
        place: String,
        /// The program and its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Write a container image of a few files, as an OCI archive.
    Image {
        /// Its name, with registry and tag.
        image: String,
        /// The archive.
        #[arg(long)]
        out: PathBuf,
        /// A file: PATH=FILE, the path being the one within the image.
        #[arg(long)]
        file: Vec<String>,
        /// The program that it runs, and its first arguments.
        #[arg(long)]
        entrypoint: Vec<String>,
        /// Whom it runs as: UID or UID:GID.
        #[arg(long, default_value = "")]
        user: String,
    },
    /// The first process of a node.
    #[command(hide = true)]
    NodeInit {
        /// The list of programs.
        plan: PathBuf,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("mesh-cluster: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<ExitCode> {
    let name = arguments.name.as_str();
    match arguments.command {
        Task::Up { nodes } => {
            let cluster = cluster::up(name, nodes).await?;
            println!("export KUBECONFIG={}", cluster.kubeconfig().display());
        }
        Task::Down => {
            cluster::down(name)?;
            println!("the cluster '{name}' is gone, and nothing of it is left");
        }
        Task::Status => return status(name).await,
        Task::Build => drop(parts::Parts::get()?),
        Task::Load { archives } => {
            let cluster = existing(name)?;
            archives.iter().try_for_each(|archive| cluster.load(archive))?;
        }
        Task::Kubectl { args } => {
            let mut kubectl = Command::new(parts::kubernetes()?.join("kubectl"));
            kubectl.args(args).env("KUBECONFIG", existing(name)?.kubeconfig());
            return attached(&mut kubectl);
        }
        Task::Shell { command } => return shell(&existing(name)?, command),
        Task::Tools { load } => {
            println!("{}", tools::helm()?.display());
            let images = [tools::jaeger_image()?, tools::prometheus_image()?, parts::programs_image()?];
            let cluster = if load { Some(existing(name)?) } else { None };
            for image in &images {
                println!("{}", image.display());
                cluster.as_ref().map_or(Ok(()), |cluster| cluster.load(image))?;
            }
        }
        Task::Exec { place, command } => {
            let (program, args) = command.split_first().context("no program")?;
            return attached(existing(name)?.enter(&place, program)?.args(args));
        }
        Task::Image { image, out, file, entrypoint, user } => {
            let mut image = Image::new(&image).entrypoint(entrypoint).user(&user);
            for file in &file {
                let (path, from) = file.split_once('=').with_context(|| format!("{file} is not PATH=FILE"))?;
                image = image.file(path, 0o755, from);
            }
            println!("{}", image.write(&out)?);
        }
        Task::NodeInit { plan } => cluster::init::run(&plan)?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn status(name: &str) -> Result<ExitCode> {
    let Some(cluster) = cluster::find(name)? else {
        println!("there is no cluster '{name}'");
        return Ok(ExitCode::FAILURE);
    };
    let up = cluster.answers().await;
    println!("the cluster '{name}' {}", if up { "is up" } else { "does not answer" });
    println!("  kubeconfig  {}", cluster.kubeconfig().display());
    println!("  API server  {}", cluster.plan().api());
    for node in cluster.nodes() {
        println!("  {}      {} {}, logs in {}", node.name, node.v4, node.v6, node.logs().display());
    }
    Ok(if up { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn shell(cluster: &Cluster, mut command: Vec<String>) -> Result<ExitCode> {
    if command.is_empty() {
        command.push(std::env::var("SHELL").unwrap_or_else(|_| "sh".to_owned()));
    }
    let (program, args) = command.split_first().context("no program")?;
    let tools = [parts::kubernetes()?, tools::helm()?.parent().context("an odd path")?.to_owned()];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(tools.into_iter().chain(std::env::split_paths(&path)))?;
    attached(Command::new(program).args(args).env("PATH", path).env("KUBECONFIG", cluster.kubeconfig()))
}

fn existing(name: &str) -> Result<Cluster> {
    match cluster::find(name)? {
        Some(cluster) => Ok(cluster),
        None => bail!("there is no cluster '{name}'; make it first: mesh-cluster up"),
    }
}

fn attached(command: &mut Command) -> Result<ExitCode> {
    let status = cluster::run_attached(command)?;
    Ok(ExitCode::from(u8::try_from(status).unwrap_or(1)))
}
