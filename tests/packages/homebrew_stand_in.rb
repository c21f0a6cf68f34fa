# frozen_string_literal: true

# What a formula of this project uses of Homebrew, where there is none: unpacks the source archive after its checksum
# is compared, runs the install block in it, and then the test block.
#
#     ruby homebrew_stand_in.rb FORMULA PREFIX

require "digest"
require "fileutils"
require "open3"
require "pathname"
require "tmpdir"
require "uri"

class Pathname
  # Homebrew's: files of the working directory, or `from => to` for another name.
  def install(*sources)
    mkpath
    sources.each { |source| FileUtils.cp_r source, self }
  end

  def install_symlink(links)
    mkpath
    links.each { |from, to| File.symlink from, self/to }
  end
end

class Formula
  class << self
    attr_reader :stated, :test_block, :service_block

    %i[desc homepage url version sha256 license].each do |name|
      define_method(name) { |value| (@stated ||= {})[name] = value }
    end

    def depends_on(*); end

    def uses_from_macos(*); end

    def service(&block) = @service_block = block

    def test(&block) = @test_block = block
  end

  attr_reader :prefix, :testpath

  def initialize(prefix, testpath)
    @prefix = prefix
    @testpath = testpath
  end

  def name = "ipcluster"

  def version = self.class.stated.fetch(:version)

  def bin = prefix/"bin"

  alias opt_bin bin

  def man1 = prefix/"share/man/man1"

  def pkgshare = prefix/"share"/name

  def var = prefix/"var"

  # A debug build: its parts are there from other tests.
  def std_cargo_args = ["--locked", "--debug", "--root=#{prefix}", "--path=."]

  def system(*command)
    words = command.map(&:to_s)
    Kernel.system(*words) || abort("#{words.join(" ")} failed")
  end

  def shell_output(command)
    output, status = Open3.capture2(command)
    abort "#{command} failed: #{output}" unless status.success?
    output
  end

  def assert_match(expected, actual)
    abort "#{expected.inspect} is not in #{actual.inspect}" unless actual.match?(expected)
  end

  PLACES = {
    bash: ["etc/bash_completion.d", "%s"],
    zsh:  ["share/zsh/site-functions", "_%s"],
    fish: ["share/fish/vendor_completions.d", "%s.fish"],
  }.freeze

  def generate_completions_from_executable(*command, base_name:, shells:)
    shells.each do |shell|
      folder, file = PLACES.fetch(shell)
      output, status = Open3.capture2(*command.map(&:to_s), shell.to_s)
      abort "no completions for #{shell}" unless status.success?
      (prefix/folder).mkpath
      (prefix/folder/format(file, base_name)).write(output)
    end
  end

  # Says what the service block does.
  def run(command) = puts("run: #{command.join(" ")}")

  def keep_alive(**how) = puts("keep_alive: #{how}")

  %i[working_dir log_path error_log_path].each do |setting|
    define_method(setting) { |path| puts "#{setting}: #{path}" }
  end
end

path, prefix = ARGV
load path
stated = Ipcluster.stated
archive = URI(stated.fetch(:url)).path
abort "#{archive} is not what the formula was made for" if Digest::SHA256.file(archive) != stated.fetch(:sha256)

Dir.mktmpdir do |folder|
  formula = Ipcluster.new(Pathname(prefix).tap(&:mkpath).realpath, Pathname(folder))
  Kernel.system("tar", "-xzf", archive, "-C", folder) || abort("tar failed")
  Dir.chdir(Dir.glob("#{folder}/*").first) { formula.install }
  formula.instance_eval(&Ipcluster.service_block)
  Dir.chdir(folder) { formula.instance_eval(&Ipcluster.test_block) }
  puts "the test block passed"
end
