class Ipcluster < Formula
  desc "Cluster of IPython engines from one executable"
  homepage "https://ipyparallel.readthedocs.io/"
  url "@URL@"
  version "@VERSION@"
  sha256 "@SHA256@"
  license "BSD-3-Clause"

  depends_on "rust" => :build
  uses_from_macos "python" => :test

  def install
    system "cargo", "install", *std_cargo_args
    bin.install_symlink "ipcluster" => "ipcontroller"
    bin.install_symlink "ipcluster" => "ipengine"

    %w[ipcluster ipcontroller ipengine].each do |name|
      generate_completions_from_executable(bin/"ipcluster", "completions", "--program=#{name}",
                                           base_name: name, shells: [:bash, :zsh, :fish])
    end
    man1.mkpath
    system bin/"ipcluster", "man", man1
    pkgshare.install "profiles"
  end

  service do
    run [opt_bin/"ipcluster", "start"]
    keep_alive crashed: true
    working_dir Dir.home
    log_path var/"log/ipcluster.log"
    error_log_path var/"log/ipcluster.log"
  end

  test do
    ENV["IPYTHONDIR"] = (testpath/"ipython").to_s
    assert_match version.to_s, shell_output("#{bin}/ipcluster --version")
    system bin/"ipcluster", "start", "-n", "1", "--daemonize"
    begin
      assert_match "running", shell_output("#{bin}/ipcluster list -o json")
    ensure
      system bin/"ipcluster", "stop"
    end
  end
end
